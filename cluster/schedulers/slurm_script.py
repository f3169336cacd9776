"""The batch script: what sbatch is asked for, the site's environment, and the command."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import keys
from cluster.files import REPOSITORY
from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.request import Request
from cluster.profile import Site

# What the batch script may take over from the submitting shell. sbatch stores what it is given where others may read.
EXPORT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "KOSEN_HOME")
# --export makes sbatch load the user's login environment on the node, with the keys that a ~/.bash_profile exports.
FORGET_SECRETS = (
    f'for name in $(compgen -e); do [[ ${{name^^}} =~ {keys.NAME.pattern} ]] && unset "$name"; done 2>/dev/null'
)
# `module` is a function, which a batch job's shell need not have: of Environment Modules, or of Lmod.
FIND_MODULES = (
    'for file in /etc/profile.d/{modules,z00_lmod,lmod}.sh "${LMOD_PKG:-/none}/init/bash"; do '
    'type module >/dev/null 2>&1 && break; [ -r "$file" ] && source "$file"; done'
)


def of_request(request: Request, module: Sequence[str], suffix: str) -> str:
    """The batch script that runs `python -m` with `module` for a request; the job's name ends with `suffix`."""
    site = request.site
    python = "python" if site.venv or site.conda else sys.executable
    return batch_script(
        site,
        name=request.name + suffix,
        nodes=request.nodes,
        output=ClusterFolder(request.name).batch_log("%j"),
        command=[python, "-m", *module],
        root=REPOSITORY,
    )


def batch_script(site: Site, *, name: str, nodes: int, output: Path, command: Sequence[str], root: Path) -> str:
    """A batch script that sets the site's environment up and then becomes `command`; `root` holds our packages."""
    options = [f"#SBATCH {option}" for option in _options(site, name, nodes, output)]
    return "\n".join(["#!/bin/bash", *options, *_setup(site, root), f"exec {shlex.join(command)}", ""])


def _options(site: Site, name: str, nodes: int, output: Path) -> list[str]:
    wanted = {
        "job-name": f"kosen-{name}",
        "partition": site.partition,
        "account": site.account,
        "nodelist": site.nodelist,
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": site.cpus_per_node,
        "gpus-per-node": site.gpus_per_node or None,
        "mem": site.memory,
        "time": site.time,
        "signal": f"B:USR2@{site.grace}",  # only to the batch script; not USR1, which NCCL takes for itself
        "export": ",".join(EXPORT),
        "output": output,
    }
    flags = ["exclusive"] if site.exclusive else []
    # A lost node shrinks the job instead of cancelling it; a job that restarts by itself would not know what was done.
    flags += ["no-kill", "no-requeue"]
    return [f"--{key}={shlex.quote(str(value))}" for key, value in wanted.items() if value is not None] + [
        *(f"--{flag}" for flag in flags),
        *site.sbatch,
    ]


def _setup(site: Site, root: Path) -> list[str]:
    lines = [FORGET_SECRETS]
    if site.modules:
        lines += [FIND_MODULES, "module purge", _or_end(f"module load {shlex.join(site.modules)}")]
    if site.conda:
        lines += ['source "$(conda info --base)/etc/profile.d/conda.sh"']
        lines += [_or_end(f"conda activate {shlex.quote(site.conda)}")]
    if site.venv:
        lines += [_or_end(f"source {shlex.quote(str(Path(site.venv).expanduser() / 'bin' / 'activate'))}")]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in site.env.items()]
    return [*lines, f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}"]


def _or_end(command: str) -> str:
    said = shlex.quote(f"error: `{command}` of the site profile failed on this node:")
    return f'{command} || {{ echo {said} "$(hostname)" >&2; exit 4; }}'
