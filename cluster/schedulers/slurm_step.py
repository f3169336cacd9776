"""A step by srun."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.schedulers.slurm_commands import hostnames
from cluster.schedulers.step import LaunchedStep


class SrunStep(LaunchedStep):
    """Each host's output goes to <host>.log in `folder`, srun's own remarks go to srun.log beside it.

    Nodes with different numbers of CPUs get an srun each, because it takes one number for all. It passes SIGUSR2 on to
    the tasks; SIGTERM it takes as an order to kill them.
    """

    def __init__(self, hosts: Sequence[str], module: str, arguments: Sequence[str], *, folder: Path, gpus: int) -> None:
        program = [sys.executable, "-m", module, *arguments]
        launchers = [
            [*_srun(group, cpus, folder / "%N.log", gpus), *program] for cpus, group in _by_cpus(hosts).items()
        ]
        super().__init__(f"{module} on {', '.join(hosts)}", launchers, remarks=folder / "srun.log")


def cpus_per_node(hosts: Sequence[str], environment: Mapping[str, str]) -> dict[str, int]:
    """The CPUs that the job has on each of its hosts: SLURM_JOB_CPUS_PER_NODE, `64(x2),48`, in the hosts' order."""
    counts: list[int] = []
    for part in environment.get("SLURM_JOB_CPUS_PER_NODE", "").split(","):
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(match[1])] * int(match[2] or 1)
    usual = int(environment.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)
    return dict(zip(hosts, counts, strict=True)) if len(counts) == len(hosts) else dict.fromkeys(hosts, usual)


def _by_cpus(hosts: Sequence[str]) -> dict[int, list[str]]:
    known = cpus_per_node(hostnames(os.environ["SLURM_JOB_NODELIST"]), os.environ)
    groups: dict[int, list[str]] = {}
    for host in hosts:
        groups.setdefault(known[host], []).append(host)
    return groups


def _srun(hosts: Sequence[str], cpus: int, log: Path, gpus: int) -> list[str]:
    return [
        *("srun", "--overlap"),  # several steps share the allocation
        *("--no-kill", "--kill-on-bad-exit=0", "--wait=0"),  # a lost node or task is not the others' end
        *("--export=ALL", "--mem=0", "--cpu-bind=none"),
        *(f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1", f"--nodelist={','.join(hosts)}"),
        f"--cpus-per-task={cpus}",  # srun does not take it over from the allocation
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *(f"--output={log}", "--open-mode=append"),
    ]
