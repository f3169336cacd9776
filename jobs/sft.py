"""Fine-tunes a model on conversations with verl: one process a GPU, checkpoints that are resumed from, one command."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import run_command
from orchestrator.training.config.common import local_or_hub
from orchestrator.training.config.placement import Placement
from orchestrator.training.config.sft_config import sft_keys
from orchestrator.training.data.convert import convert_sft
from orchestrator.training.data.sieve import DataReport
from orchestrator.training.spec import SftSpec
from orchestrator.training.supervision import run
from orchestrator.training.supervision.run import Recipe, Source


def main(argv: Sequence[str] | None = None) -> int:
    return run.main(RECIPE, argv)


def _convert(spec: SftSpec, source: Source, out: Path | None) -> DataReport:
    return convert_sft(
        source.path,
        out,
        split=source.split,
        tokenizer_path=local_or_hub(spec.model),
        max_length=spec.max_length,
    )


def _reasons(spec: SftSpec, placement: Placement) -> list[str]:
    if placement.device == "cpu" or placement.workers == 1 or placement.gpu_memory or spec.lora:
        return []
    return ["weights:   gathered for each micro batch, but kept where its GPUs have enough free memory"]


RECIPE = Recipe(
    kind="sft",
    purpose="Fine-tune a model on conversations.",
    schema=SftSpec,
    driver="orchestrator.training.trainer.sft_driver",
    keys=sft_keys,
    reasons=_reasons,
    convert=_convert,
    name=lambda spec: spec.run_name,
)

if __name__ == "__main__":
    run_command(main)
