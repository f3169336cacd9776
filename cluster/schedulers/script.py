"""The files of a batch job: its script, the request that it reads and the resolved site profile."""

from collections.abc import Sequence
from pathlib import Path

from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.request import Request
from cluster.profile import Site, to_yaml
from cluster.schedulers.base import scheduler_of


def write_script(request: Request, predecessor: str | None = None) -> Path:
    """The batch script, the request that it reads, and the resolved profile, in the cluster's folder.

    With `predecessor` it is the script of the batch job that takes over from that one.
    """
    folder = ClusterFolder(request.name)
    folder.save_request(request)
    _save_profile(folder.path, request.site)
    script = folder.path / ("successor.sh" if predecessor else "batch.sh")
    return save_script(script, request, ["cluster.head.batch", request.name, *([predecessor] if predecessor else [])])


def write_dry_run(request: Request) -> list[Path]:
    """What `start` would submit, and the resolved profile, beside the files of a cluster that may live; their paths."""
    folder = ClusterFolder(request.name).path / "dry-run"
    profile = _save_profile(folder, request.site)
    return [save_script(folder / "batch.sh", request, ["cluster.head.batch", request.name]), profile]


def _save_profile(folder: Path, site: Site) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(to_yaml(site), encoding="utf-8")
    return path


def save_script(path: Path, request: Request, module: Sequence[str], *, suffix: str = "") -> Path:
    """A batch script that runs `python -m` with `module` for a request."""
    text = scheduler_of(request.site.scheduler).script(request, module, suffix=suffix)
    path.write_text(text, encoding="utf-8")
    return path
