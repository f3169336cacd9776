"""Runs `python -m cluster` as a user of the small Slurm cluster does, and counts what is left afterwards."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.files import REPOSITORY
from tests.support.mini_slurm import LOGIN, MiniSlurm
from tests.support.namespaces import wait_until

GONE_SECONDS = 15.0  # after which nothing may be left of a cluster
UP_SECONDS = 240.0  # 13 on two idle cores; tests of other sessions may keep them busy
Finished = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Driver:
    """A driver process and the file that it prints to."""

    process: subprocess.Popen[str]
    log: Path

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def output(self) -> str:
        return self.log.read_text()


@dataclass(frozen=True)
class Kosen:
    """The command line on the machine that all nodes' network reaches, with a state folder of its own."""

    slurm: MiniSlurm
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "KOSEN_", "SLURM_"))}
        return kept | self.slurm.environment | {"KOSEN_HOME": str(self.home), "PYTHONPATH": str(REPOSITORY)}

    def start(self, module: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self.environment | environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, module: str, *arguments: str, timeout: float = UP_SECONDS, **environment: str) -> Finished:
        process = self.start(module, *arguments, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Finished(process.args, process.returncode, out, err)

    def cluster(self, *arguments: str, timeout: float = UP_SECONDS, **environment: str) -> Finished:
        return self.run("cluster", *arguments, timeout=timeout, **environment)

    def submit_arguments(self, nodes: int, *overrides: str) -> list[str]:
        """For `up`, `run` and `preflight`: half of each node, so that another cluster fits beside it."""
        shared = ["exclusive=false", "cpus_per_node=4", "gpus_per_node=4", "memory=3500M", "time=30:00"]
        return ["--site", "slurm", "--nodes", str(nodes), f"partition={self.slurm.partition}", *shared, *overrides]

    def up(self, name: str = "c", nodes: int = 2, *overrides: str, **environment: str) -> dict[str, Any]:
        """A ready cluster's state."""
        arguments = self.submit_arguments(nodes, *overrides)
        done = self.cluster("up", "--name", name, "--json", *arguments, timeout=UP_SECONDS, **environment)
        assert done.returncode == 0, done.stderr + self.logs(name)
        state: dict[str, Any] = json.loads(done.stdout)
        return state

    def state(self, name: str = "c") -> dict[str, Any] | None:
        file = self.home / "clusters" / name / "state.json"
        return json.loads(file.read_text()) if file.exists() else None

    def status(self, name: str = "c") -> dict[str, Any]:
        done = self.cluster("status", "--name", name, "--json")
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def events(self, name: str = "c") -> list[dict[str, Any]]:
        file = self.home / "clusters" / name / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def logs(self, name: str = "c") -> str:
        files = sorted((self.home / "clusters" / name / "logs").rglob("*.log"))
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def await_phase(self, phase: str, seconds: float, name: str = "c") -> None:
        def there() -> bool:
            state = self.state(name)
            return state is not None and state["phase"] == phase

        wait_until(there, seconds, f"{name} did not get {phase}: {self.state(name)}\n{self.logs(name)}")

    def driver(self, node: str, code: str, name: str = "c") -> "Driver":
        """Python code as a driver on a node, with the variables that `cluster env` tells anybody."""
        lines = self.cluster("env", "--name", name).stdout.splitlines()
        variables = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        log = Path(tempfile.mkstemp(dir=self.home, suffix=".driver")[1])
        with log.open("w") as file:
            process = self.slurm.popen(node, [sys.executable, "-c", code], env=variables, stdout=file, stderr=file)
        return Driver(process, log)

    def exit_code(self, job_id: str) -> int:
        """A batch job's, or the number of the signal that ended it."""
        text = self.slurm_command("scontrol", "show", "job", job_id)
        code, _, signal = text.partition("ExitCode=")[2].split()[0].partition(":")
        return int(code) or int(signal)

    def slurm_command(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr

    def jobs(self) -> list[str]:
        return self.slurm_command("squeue", "--noheader", "--format=%i %j %T").split("\n")[:-1]

    def left_over(self) -> dict[str, Any]:
        """Processes, folders, ports and Slurm jobs that are there now on any node, without what a node always has."""
        found: dict[str, Any] = {}
        for node in [*self.slurm.names, LOGIN]:
            here = {
                "processes": [process.command for process in self.slurm.processes(node)],
                "temp": sorted(self.slurm.temp_entries(node)),
                "ports": sorted(self.slurm.listening(node)) if node != LOGIN else [],
            }
            found |= {node: here} if any(here.values()) else {}
        return found | ({"jobs": self.jobs()} if self.jobs() else {})

    def assert_nothing_left(self, seconds: float = GONE_SECONDS) -> None:
        wait_until(lambda: not self.left_over(), seconds, f"after {seconds:.0f} s there still is {self.left_over()}")


def kill_titled(slurm: MiniSlurm, node: str, *parts: str) -> int:
    """kill -9 the one process of a node whose command line has all `parts`; its pid."""
    found = [p for p in slurm.processes(node) if all(part in p.command for part in parts)]
    assert len(found) == 1, [p.command[:80] for p in slurm.processes(node)]
    os.kill(found[0].pid, 9)
    return found[0].pid


@contextmanager
def ended(kosen: Kosen, names: Sequence[str] = ("c",)) -> Iterator[None]:
    """Whatever happens inside, the clusters are brought down and every node is brought back."""
    try:
        yield
    finally:
        for name in names:
            kosen.cluster("down", "--name", name)
        kosen.slurm_command("scancel", "--user=root")
        for node in kosen.slurm.names:
            if kosen.slurm.state(node).rstrip("*") not in ("idle", "mixed", "allocated", "completing"):
                kosen.slurm.resume(node)


@contextmanager
def lost(slurm: MiniSlurm, node: str) -> Iterator[None]:
    """The node is gone for good and Slurm knows; afterwards it is as after a repair, with an empty disk."""
    slurm.crash(node)
    try:
        slurm.set_down(node, "test: lost")
        yield
    finally:
        for entry in slurm.temp_entries(node):
            shutil.rmtree(slurm.node_dir(node) / "tmp" / entry)
        slurm.boot(node)
        wait_until(lambda: "down" not in slurm.state(node), 30, f"{node} is {slurm.state(node)}")
