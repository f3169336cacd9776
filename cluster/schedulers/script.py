"""The files of a batch job: its script, the request that it reads and the resolved site profile."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.files import REPOSITORY
from cluster.folder.request import Request, save_request
from cluster.profile import Site, to_yaml
from cluster.schedulers import slurm
from cluster.state import batch_log, cluster_dir


def write_script(request: Request, predecessor: str | None = None) -> Path:
    """The batch script, the request that it reads, and the resolved profile, in the cluster's folder.

    With `predecessor` it is the script of the batch job that takes over from that one.
    """
    save_request(request)
    folder = cluster_dir(request.name)
    _save_profile(folder, request.site)
    script = folder / ("successor.sh" if predecessor else "batch.sh")
    return save_script(script, request, ["cluster.head.batch", request.name, *([predecessor] if predecessor else [])])


def write_dry_run(request: Request) -> list[Path]:
    """What `start` would submit, and the resolved profile, beside the files of a cluster that may live; their paths."""
    folder = cluster_dir(request.name) / "dry-run"
    profile = _save_profile(folder, request.site)
    return [save_script(folder / "batch.sh", request, ["cluster.head.batch", request.name]), profile]


def _save_profile(folder: Path, site: Site) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(to_yaml(site), encoding="utf-8")
    return path


def save_script(
    path: Path,
    request: Request,
    module: Sequence[str],
    *,
    site: Site | None = None,
    suffix: str = "",
    nodes: int | None = None,
) -> Path:
    """A batch script that runs `python -m` with `module`, on the request's nodes and site unless others are given."""
    site = site or request.site
    python = "python" if site.venv or site.conda else sys.executable
    text = slurm.batch_script(
        site,
        name=request.name + suffix,
        nodes=nodes or request.nodes,
        output=batch_log(request.name, "%j"),
        command=[python, "-m", *module],
        root=REPOSITORY,
    )
    path.write_text(text, encoding="utf-8")
    return path
