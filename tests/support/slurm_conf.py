"""The options of a small Slurm cluster, and the files that Slurm reads them from."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

LOGIN = "login"
FOLDERS = ("run", "etc", "state", "nodes", "home", "opt")  # that go when the cluster goes, in reverse


@dataclass(frozen=True)
class Settings:
    """What a cluster is made of; kept on disk, so that another process finds the cluster by its directory alone."""

    nodes: int = 2
    cpus: int = 8  # claimed by each node, may exceed the machine's
    memory_mib: int = 8000  # the same
    gpus: int = 8  # fake ones of each node
    partition: str = "P04"
    shm: str = "1g"  # size of a node's /dev/shm
    kill_wait: int = 5  # seconds from SIGTERM to SIGKILL
    node_down: int = 60  # seconds (SlurmdTimeout) after which a silent node is DOWN
    share: tuple[Path, ...] = ()  # paths below /tmp to show in the nodes, whose /tmp is private
    repository: Path | None = None  # shown to every user below opt/, with the Python that runs this
    directory: Path = Path("/var/lib/kosen-slurm")
    net: str = "10.90.0"  # the first three octets of a /24
    prefix: str = "ks"  # of the interface in the machine's own network

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 200:
            raise ValueError(f"nodes is {self.nodes}; give 1 to 200")
        if self.directory.is_relative_to("/tmp"):
            raise ValueError(
                f"directory is {self.directory}; give one that is not below /tmp, which nodes do not share"
            )

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The cluster below `directory` as it was started; None where there is none."""
        try:
            options = json.loads(cls(directory=directory).settings_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        repository = options.pop("repository")
        options |= {"share": tuple(map(Path, options["share"])), "directory": directory}
        return cls(**options, repository=Path(repository) if repository else None)

    @property
    def names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def conf(self) -> Path:
        return self.directory / "etc" / "slurm.conf"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def settings_file(self) -> Path:
        return self.run_dir / "settings.json"

    @property
    def log_dir(self) -> Path:
        return self.directory / "log"

    @property
    def munge_socket(self) -> Path:
        return self.run_dir / "munge.sock"

    def address(self, node: str) -> str:
        """`node`'s IPv4 address: .1 is the login node's, .2 node1's; .254 is the machine itself."""
        return f"{self.net}.{1 if node == LOGIN else 1 + int(node.removeprefix('node'))}"

    def node_dir(self, node: str) -> Path:
        return self.directory / "nodes" / node


def write_files(settings: Settings) -> None:
    """Everything below the directory that must exist before the first daemon starts."""
    for name in (*FOLDERS, "log"):
        (settings.directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    etc = settings.conf.parent
    text = json.dumps(asdict(settings), default=str)
    settings.settings_file.write_text(text + "\n", encoding="utf-8")
    settings.conf.write_text(slurm_conf(settings), encoding="utf-8")
    (settings.log_dir / "jobcomp.log").touch()
    # slurmd loads a cgroup plugin even when nothing uses it, and exits where it cannot detect a mounted hierarchy
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
    (etc / "hosts").write_text(_hosts(settings), encoding="utf-8")
    (etc / "nsswitch.conf").write_text(_nsswitch(), encoding="utf-8")
    (etc / "gres.conf").write_text(_fake_gpus(settings), encoding="utf-8")
    key = etc / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def slurm_conf(settings: Settings) -> str:
    """The text of slurm.conf: no systemd, no cgroups, no accounting database."""
    directory, net, count = settings.directory, settings.net, settings.nodes
    gpus = settings.gpus
    return f"""\
ClusterName=mini
SlurmctldHost={LOGIN}({settings.address(LOGIN)})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={settings.munge_socket}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/nodes/%n/spool
SlurmctldPidFile={directory}/run/slurmctld.inside
SlurmdPidFile={directory}/run/slurmd-%n.inside
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd-%n.log
# without cgroups, a job's processes are found by their parents in /proc; each node has its own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/log/jobcomp.log
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={settings.kill_wait}
SlurmdTimeout={settings.node_down}
SlurmctldTimeout=30
MessageTimeout=10
PropagateResourceLimits=NONE
{"GresTypes=gpu" if gpus else ""}
NodeName=node[1-{count}] NodeAddr={net}.[2-{count + 1}] CPUs={settings.cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={settings.cpus} ThreadsPerCore=1 RealMemory={settings.memory_mib} \
{f"Gres=gpu:{gpus} " if gpus else ""}State=UNKNOWN
PartitionName={settings.partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _hosts(settings: Settings) -> str:
    lines = [f"{settings.address(node)} {node}" for node in (LOGIN, *settings.names)]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def _nsswitch() -> str:
    """The machine's own, but names come from files: no DNS answers in a node, and each question would time out."""
    source = Path("/etc/nsswitch.conf")
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    return "\n".join([*(line for line in lines if not line.startswith("hosts:")), "hosts: files", ""])


def _fake_gpus(settings: Settings) -> str:
    """gres.conf; pid 1 of each node makes the devices. The number at the end of a name becomes the index in
    CUDA_VISIBLE_DEVICES."""
    files = f"/dev/nvidia[0-{settings.gpus - 1}]"
    return f"NodeName=node[1-{settings.nodes}] Name=gpu File={files}\n" if settings.gpus else ""
