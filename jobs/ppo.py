"""Trains a model by reinforcement learning with verl (PPO, GRPO, RLOO): samples answers, rewards them, updates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.tasks import gsm8k
from orchestrator.errors import run_command
from orchestrator.training.config.common import Keys, local_or_hub
from orchestrator.training.config.placement import Placement
from orchestrator.training.config.ppo_config import ppo_keys, reasons
from orchestrator.training.data.convert import convert_ppo
from orchestrator.training.data.sieve import DataReport
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import PpoSpec
from orchestrator.training.supervision import run
from orchestrator.training.supervision.run import Recipe, Source

# verl's workers import the modules: they run in a copy of the repository's root, as this job does.
RULES = {"gsm8k": "pkg://jobs.tasks.gsm8k:reward", "exact_match": "pkg://jobs.tasks.exact_match:reward"}
CHECKS: dict[str, Callable[[Any], str | None]] = {"gsm8k": gsm8k.check_gold}  # of right answers


def main(argv: Sequence[str] | None = None) -> int:
    return run.main(RECIPE, argv)


def _convert(spec: PpoSpec, source: Source, out: Path | None) -> DataReport:
    return convert_ppo(
        source.path,
        out,
        split=source.split,
        tokenizer_path=local_or_hub(spec.model),
        max_prompt_length=spec.rollout.max_prompt_length,
        question_key=spec.question_key,
        answer_key=spec.answer_key,
        check_gold=CHECKS.get(spec.reward),
    )


def _keys(spec: PpoSpec, placement: Placement, folder: TrainingFolder) -> Keys:
    return ppo_keys(spec, placement, folder, RULES)


RECIPE = Recipe(
    kind="ppo",
    purpose="Train a model by reinforcement learning.",
    schema=PpoSpec,
    driver="orchestrator.training.trainer.ppo_driver",
    keys=_keys,
    reasons=reasons,
    convert=_convert,
    name=lambda spec: spec.run_name,
)

if __name__ == "__main__":
    run_command(main)
