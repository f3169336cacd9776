"""What a user asked for, as the batch job and its nodes read it: one private file, nothing of it in a batch script."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster.errors import ClusterError
from cluster.files import replace
from cluster.profile import Site

Mode = Literal["up", "run", "preflight"]


@dataclass(frozen=True, slots=True)
class Request:
    """One `up`, `run` or `preflight`."""

    name: str
    site_name: str
    site: Site
    nodes: int
    mode: Mode
    run_root: str  # absolute; where jobs put their run folders
    cwd: str  # where the command runs, and submissions without a folder of their own
    command: list[str] = field(default_factory=list)  # of `run`


def save_request(path: Path, request: Request) -> None:
    values = dataclasses.asdict(request) | {"site": request.site.model_dump()}
    replace(path, json.dumps(values, indent=2) + "\n", mode=0o600)


def load_request(path: Path) -> Request:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Request(**values | {"site": Site.model_validate(values["site"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterError(
            f"cannot read {path} ({error}). Is ~/.kosen on a file system that all nodes share?"
        ) from None
