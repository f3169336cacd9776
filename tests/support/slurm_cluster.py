"""Real Slurm on one machine, for tests: a node is a set of Linux namespaces with its own address, name and processes.

A node's /tmp and /dev/shm are its own, everything else of the file system is shared, as on a cluster with shared
storage. The login node holds the bridge, so that firewall rules of the machine do not reach the nodes' traffic, and
runs slurmctld; the machine itself is <net>.254, so that sbatch and srun work on it too. Needs root (a virtual machine,
a CI runner, or a privileged container); see `missing`.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

from tests.support import public_python
from tests.support.namespaces import (
    PATH,
    Process,
    alive,
    children_born_in,
    listening_ports,
    login_environment,
    members,
    running_with,
    wait_until,
)
from tests.support.slurm_conf import FOLDERS, LOGIN, Settings, slurm_conf, write_files

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
    "useradd": "passwd",
}
NAMESPACES = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"]
# By their executables, as they give themselves other titles; Debian adds "-wlm" to the names.
DAEMONS = {f"{name}{suffix}" for name in ("slurmctld", "slurmd", "slurmstepd") for suffix in ("", "-wlm")}
DAEMON_PORTS = {6817, 6818}
USABLE = {"idle", "mixed", "allocated", "completing"}
STARTED: "list[subprocess.Popen[str]]" = []  # by popen, and not yet known to have ended


class MiniSlurmError(RuntimeError):
    """The test cluster could not do what was asked; the message names the log."""


class MiniSlurm(Settings):
    """A cluster of Slurm nodes; as a context manager it is up inside."""

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # the cluster

    @property
    def environment(self) -> dict[str, str]:
        """What sbatch, squeue and their kin need on the machine itself."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def public_repository(self) -> Path:
        """The repository as every user inside a node can read it."""
        return self.directory / "opt" / "repository"

    @property
    def public_python(self) -> Path:
        """A Python with the packages of this one, as every user inside a node can run it."""
        return self.directory / "opt" / "venv" / "bin" / "python"

    def up(self) -> None:
        """Start anew, whatever was there; returns when every node is idle."""
        (MiniSlurm.read(self.directory) or self).down()
        shutil.rmtree(self.log_dir, ignore_errors=True)
        self.log_dir.mkdir(parents=True)
        _install_packages(self.log_dir / "packages.log")
        write_files(self)
        self._start_munge()
        for node in (LOGIN, *self.names):
            self.boot(node)
        wait_until(lambda: self._usable() == self.nodes, 30, f"the nodes did not become idle, see {self.log_dir}")

    def down(self) -> None:
        """End everything and remove every trace but the logs; nothing happens where no cluster was."""
        if not self.settings_file.exists():
            return
        for file in sorted(self.run_dir.glob("*.init"), reverse=True):
            self.crash(file.stem)
        self._stop_munge()
        subprocess.run(["ip", "link", "del", f"{self.prefix}host"], stderr=subprocess.DEVNULL, timeout=10, check=False)
        for account in self._accounts():
            _account_command(["userdel", account])
        if str(self.directory) + "/" in Path("/proc/self/mountinfo").read_text(encoding="utf-8"):
            raise MiniSlurmError(f"something is mounted below {self.directory}; unmount it, then run down again")
        for name in reversed(FOLDERS):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.directory / name)

    def reconfigure(self, kill_wait: int | None = None, node_down: int | None = None) -> None:
        """Change these seconds in the running cluster; None goes back to what it was started with."""
        changed = replace(self, kill_wait=kill_wait or self.kill_wait, node_down=node_down or self.node_down)
        self.conf.write_text(slurm_conf(changed), encoding="utf-8")
        self._must(LOGIN, ["scontrol", "reconfigure"])

    def add_user(self, name: str) -> Path:
        """The home of a user without privileges, on the shared file system; made if missing, and removed by down."""
        try:
            return Path(pwd.getpwnam(name).pw_dir)
        except KeyError:
            home = self.directory / "home" / name
        with (self.run_dir / "users").open("a", encoding="utf-8") as users:
            users.write(name + "\n")
        account = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(home)]
        _account_command([*account, "--shell", "/bin/bash", name])
        home.mkdir(mode=0o700)
        shutil.chown(home, name, name)
        return home

    # one node

    def boot(self, node: str) -> None:
        """Start a node that is not running; its /tmp is as it was left."""
        if self._init(node):
            raise MiniSlurmError(f"{node} is running already")
        log = self.log_dir / f"{node}.init.log"
        arguments: dict[str, Any] = {"name": node, "pid_file": str(self._init_file(node))}
        arguments |= {"shm": self.shm, "binds": self._binds(node), "gpus": 0 if node == LOGIN else self.gpus}
        python = [sys.executable, "-I", "-S", str(Path(__file__).with_name("slurm_node.py")), json.dumps(arguments)]
        with log.open("ab") as output:
            command = ["setsid", "--fork", "unshare", *NAMESPACES, *python]
            subprocess.run(command, env=login_environment("root"), stdout=output, stderr=output, timeout=10, check=True)
        wait_until(lambda: self._init(node) > 0, 10, f"{node} did not start, see {log}")
        self._connect(node)
        self._must(node, ["slurmctld"] if node == LOGIN else ["slurmd", "-N", node])

    def crash(self, node: str) -> None:
        """Power loss: every process of the node dies at once, its /dev/shm is lost, its /tmp stays."""
        if pid := self._init(node):
            os.kill(pid, signal.SIGKILL)  # the kernel ends its whole PID namespace
            wait_until(lambda: _reap() and not self._init(node), 10, f"{node} (pid {pid}) did not end")
        self._init_file(node).unlink(missing_ok=True)

    def cut(self, node: str) -> None:
        """Pull the network cable."""
        self._ip(f"link set v-{node} down", inside=LOGIN)

    def heal(self, node: str) -> None:
        """Plug it in again."""
        self._ip(f"link set v-{node} up", inside=LOGIN)

    def popen(
        self,
        node: str,
        argv: Sequence[str | os.PathLike[str]],
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        stdout: IO[str] | int | None = None,
        stderr: IO[str] | int | None = None,
        stdin: IO[str] | int | None = subprocess.DEVNULL,
    ) -> "subprocess.Popen[str]":
        """Start a command inside `node` as `user` (root), with a login's environment and `env`.

        What is returned is the command's own process, not a wrapper: its signals and exit code are real.
        """
        pid = self._running(node)
        inside = ["nsenter", "-t", str(pid), "--net", "--uts", "--mount", "--ipc", "--"]
        identity = (
            ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"] if user else []
        )
        command = [*inside, *identity, "env", "-C", str(cwd), *map(str, argv)]
        environment = login_environment(user or "root") | self.environment | dict(env or {})
        with children_born_in(pid):
            process = subprocess.Popen(command, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, text=True)
        STARTED.append(process)
        return process

    def run(
        self,
        node: str,
        argv: Sequence[str | os.PathLike[str]],
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        cwd: Path | str = "/",
    ) -> "subprocess.CompletedProcess[str]":
        """`popen` to the end; raises subprocess.TimeoutExpired after `timeout` seconds, when the command is killed.

        The output goes through files: a pipe would be held open by whatever the command leaves behind.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(node, argv, user, env, cwd, out, err)
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(process.args, code, out.read(), err.read())

    # what can be seen from outside

    def processes(self, node: str) -> list[Process]:
        """What lives inside `node`, orphans too, without pid 1 and Slurm's daemons."""
        return members(self._running(node), DAEMONS)

    def listening(self, node: str) -> set[int]:
        """The TCP ports on which something inside `node` listens, without those of Slurm's daemons."""
        return listening_ports(self._running(node)) - DAEMON_PORTS

    def temp_entries(self, node: str) -> set[str]:
        """The names in `node`'s own /tmp, also after a crash."""
        shared = {path.relative_to("/tmp").parts[0] for path in self._shared()}
        return {entry.name for entry in self._temp(node).iterdir()} - shared

    def state(self, node: str) -> str:
        """Slurm's word for `node`, such as idle, allocated, down or down* (silent)."""
        return self._must(LOGIN, ["sinfo", "--noheader", "--nodes", node, "--format", "%T"]).strip()

    def set_down(self, node: str, reason: str) -> None:
        """Declare `node` DOWN, as an administrator would."""
        self._must(LOGIN, ["scontrol", "update", f"NodeName={node}", "State=DOWN", f"Reason={reason}"])

    def resume(self, node: str) -> None:
        """Give a node that is down back to Slurm."""
        self._must(LOGIN, ["scontrol", "update", f"NodeName={node}", "State=RESUME"])

    # inside

    def _init_file(self, node: str) -> Path:
        return self.run_dir / f"{node}.init"

    def _init(self, node: str) -> int:
        """The machine's pid of `node`'s pid 1; 0 where it does not run."""
        try:
            return alive(self._init_file(node).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0

    def _running(self, node: str) -> int:
        if pid := self._init(node):
            return pid
        raise MiniSlurmError(f"{node} is not running in {self.directory}")

    def _must(self, node: str, argv: list[str]) -> str:
        done = self.run(node, argv, timeout=30)
        if done.returncode != 0:
            raise MiniSlurmError(f"{' '.join(argv)} on {node}: {done.stderr.strip()}; see {self.log_dir}")
        return done.stdout

    def _usable(self) -> int:
        done = self.run(LOGIN, ["sinfo", "--noheader", "--Node", "--format", "%T"], timeout=30)
        return sum(state in USABLE for state in done.stdout.split())

    def _temp(self, node: str) -> Path:
        return self.node_dir(node) / "tmp"

    def _shared(self) -> list[Path]:
        return [path for path in self.share if path.is_relative_to("/tmp") and path.exists()]

    def _binds(self, node: str) -> list[tuple[str, str]]:
        """What `node` mounts, in order: /tmp comes last, as it hides what is shared from below it."""
        temp, etc = self._temp(node), self.conf.parent
        for folder in (temp, self.node_dir(node) / "spool"):
            folder.mkdir(parents=True, exist_ok=True)
        temp.chmod(0o1777)
        binds = public_python.prepare(self.directory / "opt", self.repository) if self.repository else []
        for path in self._shared():
            binds.append((path, public_python.mount_point(path, temp / path.relative_to("/tmp"))))
        for name in ("hosts", "nsswitch.conf"):
            if Path("/etc", name).exists():
                binds.append((etc / name, Path("/etc", name)))
        return [(str(source), str(target)) for source, target in [*binds, (temp, Path("/tmp"))]]

    def _connect(self, node: str) -> None:
        address, pid, login = self.address(node), self._running(node), self._running(LOGIN)
        if node == LOGIN:
            bridge = ["link add br0 type bridge", "link set br0 up", f"addr add {address}/24 dev br0"]
            host = f"{self.prefix}host"
            self._ip("link set lo up", *bridge, inside=LOGIN)
            self._ip(f"link add {host} type veth peer name host0 netns {login}")
            self._ip("link set host0 master br0 up", inside=LOGIN)
            self._ip(f"addr add {self.net}.254/24 dev {host}", f"link set {host} up")
            return
        with suppress(MiniSlurmError):  # of a node that crashed a moment ago
            self._ip(f"link del v-{node}", inside=LOGIN)
        self._ip(f"link add eth0 netns {pid} type veth peer name v-{node} netns {login}")
        self._ip(f"link set v-{node} master br0 up", inside=LOGIN)
        # the route leads nowhere; it makes the question "which is my address?" answer eth0's
        route = f"route add default via {self.net}.1"
        self._ip("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up", route, inside=node)

    def _ip(self, *commands: str, inside: str = "") -> None:
        enter = ["nsenter", "-t", str(self._running(inside)), "--net", "--"] if inside else []
        text = "\n".join(commands)
        done = subprocess.run(
            [*enter, "ip", "-batch", "-"], input=text, capture_output=True, text=True, timeout=10, check=False
        )
        if done.returncode != 0:
            raise MiniSlurmError(f"ip ({inside or 'this machine'}): {done.stderr.strip()}, of: {'; '.join(commands)}")

    def _start_munge(self) -> None:
        files = {"key-file": self.conf.parent / "munge.key", "socket": self.munge_socket}
        files |= {"pid-file": self.run_dir / "munged.pid", "seed-file": self.run_dir / "munged.seed"}
        files |= {"log-file": self.log_dir / "munged.log"}
        options = [f"--{name}={path}" for name, path in files.items()]
        done = subprocess.run(["munged", "--force", *options], capture_output=True, text=True, timeout=20, check=False)
        if done.returncode != 0:
            raise MiniSlurmError(f"munged did not start: {done.stderr.strip()}")

    def _stop_munge(self) -> None:
        for process in running_with(f"--socket={self.munge_socket}"):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        gone = f"munged of {self.directory} did not end"
        wait_until(lambda: not running_with(f"--socket={self.munge_socket}"), 10, gone)

    def _accounts(self) -> list[str]:
        """The users that add_user made and that still exist."""
        try:
            names = (self.run_dir / "users").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []
        return [entry.pw_name for entry in pwd.getpwall() if entry.pw_name in names]


def _reap() -> bool:
    """Collect what popen started and what has ended: until then the kernel keeps its PID namespace."""
    STARTED[:] = [process for process in STARTED if process.poll() is None]
    return True


def _account_command(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise MiniSlurmError(f"{' '.join(argv)}: {done.stderr.strip()}")


def missing() -> str | None:
    """Why this machine cannot have a cluster, in a sentence; None where it can."""
    if sys.platform != "linux":
        return f"Slurm nodes are made of Linux namespaces, this is {sys.platform}"
    if os.geteuid() != 0:
        return "Slurm nodes are made of namespaces and devices, which needs root"
    if _absent() and not shutil.which("apt-get"):
        return f"missing: {', '.join(_absent())}; install Slurm 22.05 or later and munge"
    probe = ["unshare", *NAMESPACES, "mount", "-t", "proc", "proc", "/proc"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    return f"no right to make namespaces: {done.stderr.strip()}" if done.returncode else None


def _absent() -> list[str]:
    return [command for command in PACKAGES if not shutil.which(command, path=PATH)]


def _install_packages(log: Path) -> None:
    packages = [PACKAGES[command] for command in _absent()]
    if not packages:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    for command in (["apt-get", "update"], install):
        with log.open("ab") as output:
            done = subprocess.run(command, env=environment, stdout=output, stderr=output, timeout=300, check=False)
        if done.returncode != 0:
            raise MiniSlurmError(f"{' '.join(command)} ended with {done.returncode}, see {log}")
