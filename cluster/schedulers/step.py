"""Steps of a batch job: one process on each of some of its nodes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.schedulers.slurm import hostnames

STOP_SECONDS = 12.0  # a node needs about 5 to end its Ray; whoever is slower is left to Slurm


class Step:
    """`python -m MODULE ARGUMENTS` on each of `hosts`, running since its making. srun's own remarks go beside `log`.

    Nodes with different numbers of CPUs get an srun each, because it takes one number for all.
    """

    def __init__(self, hosts: Sequence[str], module: str, arguments: Sequence[str], *, log: Path, gpus: int) -> None:
        self.what = f"{module} on {', '.join(hosts)}"
        self.remarks = log.with_name("srun.log")
        program = [sys.executable, "-m", module, *arguments]
        with self.remarks.open("ab") as remarks:
            self._processes = [
                subprocess.Popen(
                    [*_srun(group, cpus, log, gpus), *program],
                    stdin=subprocess.DEVNULL,
                    stdout=remarks,
                    stderr=remarks,
                    start_new_session=True,
                )
                for cpus, group in _by_cpus(hosts).items()
            ]

    def poll(self) -> int | None:
        """The step's exit code, the worst of its parts, None while any runs."""
        codes = [process.poll() for process in self._processes]
        return None if None in codes else max(abs(code or 0) for code in codes)

    def terminate(self) -> None:
        """Tell its processes to end. srun passes USR2 on to them; TERM it takes as an order to kill them."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGUSR2)

    def wait(self, deadline: float | None = None) -> None:
        """Wait for its end until `deadline` (time.monotonic); what has not ended is cut off and left to Slurm."""
        deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


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
