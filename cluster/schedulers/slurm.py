"""Slurm: the scheduler of a profile with `scheduler: slurm`. Its commands and words are in the files slurm_*.py."""

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.errors import ClusterError, ProfileError
from cluster.folder.request import Request
from cluster.machine.resources import visible_gpus
from cluster.profile import Site
from cluster.schedulers import slurm_commands as commands
from cluster.schedulers import slurm_profile, slurm_script, slurm_states, slurm_step, slurm_text
from cluster.schedulers.base import Allocation, Hints, Job, NodeState, Scheduler

TYPED_COUNTS = re.compile(r"(?:[\w.:-]+:)?[0-9]+(?:,(?:[\w.:-]+:)?[0-9]+)*", re.ASCII)  # 8, h100:8 or a100:4,h100:4
MIB = 1024**2


class Slurm:
    """Slurm 22.05 to 25.11, by its own commands alone."""

    name = "slurm"
    title = "Slurm"
    # Of srun, too: mpirun and others take these variables for options of their own.
    variables = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_")
    hints = Hints(
        alive="scontrol ping",
        queue="squeue --me",
        job="squeue -j {}",
        release="scontrol release {}",
        limits=(
            "no partition, account or QOS gives one job that many nodes, CPUs, GPUs or hours, or not to you. Compare "
            "the site profile, --nodes, `scontrol show partition` and `sacctmgr show qos`"
        ),
        leave_out="sbatch=[--exclude={}]",
    )

    def check_site(self, site: Site) -> None:
        slurm_profile.check(site)

    def advice(self, key: str, value: object) -> str | None:
        return slurm_profile.advice(key, value)

    def check(self, request: Request) -> None:
        """sbatch would add nodes from elsewhere, and say nothing."""
        nodelist = request.site.nodelist
        count = len(commands.hostnames(nodelist)) if nodelist else request.nodes
        if count < request.nodes:
            raise ProfileError(
                f"nodelist={nodelist} names {count} of the {request.nodes} nodes. Name more, or give NODES={count}"
            )

    def script(self, request: Request, module: Sequence[str], *, suffix: str = "") -> str:
        return slurm_script.of_request(request, module, suffix)

    def submit(
        self, script: Path, *, after: str | None = None, avoid: Sequence[str] = (), minutes: int | None = None
    ) -> str:
        options = [f"--dependency=afternotok:{after}", "--kill-on-invalid-dep=yes"] if after else []
        options += [f"--exclude={','.join(avoid)}"] if avoid else []
        options += [f"--time={minutes}"] if minutes is not None else []
        return commands.submit(script, *options)

    def cancel(self, job_id: str) -> None:
        commands.cancel(job_id)

    def signal(self, job_id: str, name: str) -> bool:
        return commands.signal_batch(job_id, name)

    def job(self, job_id: str) -> Job | None:
        return commands.job(job_id)

    def jobs_of(self, folder: Path) -> list[str]:
        return commands.jobs_of(folder)

    def is_job_id(self, text: str) -> bool:
        return bool(slurm_text.JOB_ID.fullmatch(text))

    def node_states(self, names: Sequence[str]) -> dict[str, NodeState]:
        words = commands.node_states(names)
        return {name: NodeState(word, slurm_states.is_usable(word)) for name, word in words.items()}

    def allocation(self, environ: Mapping[str, str]) -> Allocation:
        try:
            job_id, hosts = environ["SLURM_JOB_ID"], commands.hostnames(environ["SLURM_JOB_NODELIST"])
        except KeyError as missing:
            raise ClusterError(f"this process is not part of a Slurm job: {missing.args[0]} is not set") from None
        cpus, gpus = _number(environ, "SLURM_CPUS_ON_NODE") or None, _gpus(environ)
        return Allocation(
            job_id=job_id,
            hosts=hosts,
            this_host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
            cpus=cpus,
            gpus=gpus,
            memory=_memory(environ),
        )

    def step(
        self, hosts: Sequence[str], module: str, arguments: Sequence[str], *, folder: Path, gpus: int
    ) -> slurm_step.SrunStep:
        return slurm_step.SrunStep(hosts, module, arguments, folder=folder, gpus=gpus)


def _gpus(environ: Mapping[str, str]) -> int | None:
    counts = environ.get("SLURM_GPUS_ON_NODE", "")
    return sum(int(part.rpartition(":")[2]) for part in counts.split(",")) if TYPED_COUNTS.fullmatch(counts) else None


def _memory(environ: Mapping[str, str]) -> int | None:
    """Bytes that Slurm gave on this node, or None: no variable, or 0 (`--mem=0`), means no limit."""
    units = {
        "SLURM_MEM_PER_NODE": 1,
        "SLURM_MEM_PER_CPU": _number(environ, "SLURM_CPUS_ON_NODE"),
        "SLURM_MEM_PER_GPU": visible_gpus(environ, _gpus(environ)) or 0,
    }
    given = [_number(environ, name) * count * MIB for name, count in units.items()]
    return next((limit for limit in given if limit), None)


def _number(environ: Mapping[str, str], name: str) -> int:
    """A whole number from the environment; 0 where it is missing or something else."""
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


SCHEDULER: Scheduler = Slurm()
