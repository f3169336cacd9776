"""Fetches from the hub what a job needs, into the local cache."""

from pathlib import Path

from jobs.prefetching.needs import Need
from orchestrator import secrets
from orchestrator.data.configs import read_configs
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import local_path
from orchestrator.spec import first_line

TOKENIZER = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]
WEIGHTS = ["*.safetensors"]  # not twice, as *.bin


def fetch(need: Need) -> str:
    """Bring it into the local cache; where it is, or how much. Raises SpecError."""
    if need.is_local:
        path = local_path(need.name)
        return "here already" if path.exists() else f"no name on the hub, and not here yet (relative to {Path.cwd()})"
    if need.kind == "data":
        rows = read_configs(need.name, need.configs, split=need.split, columns=need.columns)
        return f"{sum(1 for _ in rows)} rows"
    return _fetch_model(need.name, TOKENIZER + (WEIGHTS if need.kind == "model" else []))


def _fetch_model(name: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=patterns, token=secrets.find("HF_TOKEN"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SpecError(
            f"cannot fetch the model {name}: {first_line(error)}. Check its name, HF_TOKEN and the network"
        ) from None
