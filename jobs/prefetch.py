"""Fetch a spec's model and data where there is internet, for compute nodes without it."""

from collections.abc import Sequence
from pathlib import Path

from jobs.exam import ExamSpec
from orchestrator import secrets
from orchestrator.errors import Parser, SpecError, run_command
from orchestrator.progress import say
from orchestrator.spec import first_line, load_spec

WEIGHTS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]  # not twice, as *.bin


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.prefetch", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec whose model and data are wanted")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(ExamSpec, args.config, args.overrides)
    secrets.load_into_environment()
    for model in _models(spec):
        print(f"model {model}: {fetch_model(model)}")
    print(f"data  {spec.dataset}: {fetch_dataset(spec.dataset, spec.split)}")
    say("The jobs find both without internet: set HF_HUB_OFFLINE=1 there, and the same HF_HOME as here")
    return 0


def _models(spec: ExamSpec) -> list[str]:
    """The models that this spec would deploy here."""
    models = [spec.model] if spec.provider == "vllm" else []
    if spec.judge and spec.judge_provider == "vllm" and not spec.judge_base_url:
        models.append(spec.judge)
    return models


def fetch_model(model: str) -> str:
    """Bring a model of the hub into the local cache; returns its folder. A local folder is left as it is."""
    if Path(model).is_dir():
        return f"{model} is here already"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(model, allow_patterns=WEIGHTS, token=secrets.find("HF_TOKEN"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SpecError(
            f"cannot fetch the model {model}: {first_line(error)}. Check model=, HF_TOKEN and the network"
        ) from None


def fetch_dataset(dataset: str, split: str) -> str:
    """Bring a data set of the hub into the local cache, and tell how many rows it has."""
    from jobs.tasks import hle
    from orchestrator.datasource import read_rows

    rows = sum(1 for _ in read_rows(dataset, split=split, columns=hle.COLUMNS))
    return f"{rows} rows"


if __name__ == "__main__":
    run_command(main)
