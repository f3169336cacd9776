"""The protocol for schedulers: one is a file of its name, and what was submitted before it existed keeps running."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ProfileError
from cluster.files import REPOSITORY
from cluster.schedulers.base import known_schedulers, scheduler_of

TOY = '''
"""A queue that is a folder: submitting copies the script there, cancelling marks it."""

import os
import shutil
from pathlib import Path

from cluster.schedulers.base import Allocation, Hints, Job, NodeState, Scheduler
from cluster.schedulers.step import LaunchedStep

QUEUE = Path(os.environ["TOY_QUEUE"])


class Toy:
    name, title, variables = "toy", "Toy Engine", ("TOY_",)
    hints = Hints("toy ping", "toy list", "toy show {}", "toy release {}", "see `toy limits`", "toy avoid {}")

    def check_site(self, site):
        if site.nodelist:
            raise ValueError("the Toy Engine chooses the nodes itself")

    def advice(self, key, value):
        return "Did you mean account?" if key == "group" else None

    def check(self, request):
        pass

    def script(self, request, module, *, suffix=""):
        return f"#!/bin/sh\\n#TOY -N {request.name}{suffix} -n {request.nodes}\\npython -m {' '.join(module)}\\n"

    def submit(self, script, *, after=None, avoid=(), minutes=None):
        shutil.copy(script, QUEUE / "1.toy")
        return "1.toy"

    def cancel(self, job_id):
        (QUEUE / job_id).write_text("cancelled")

    def signal(self, job_id, name):
        return False

    def job(self, job_id):
        if not (QUEUE / job_id).exists():
            return None
        ended = (QUEUE / job_id).read_text() == "cancelled"
        return Job(job_id, "dr" if ended else "qw", "None", stage="ended" if ended else "waits")

    def jobs_of(self, folder):
        return []

    def is_job_id(self, text):
        return text.endswith(".toy")

    def node_states(self, names):
        return {name: NodeState("up", True) for name in names}

    def allocation(self, environ):
        return Allocation(environ["TOY_JOB"], ["n1"], "n1")

    def step(self, hosts, module, arguments, *, folder, gpus):
        return LaunchedStep(module, [["true"]], remarks=folder / "toy.log")


SCHEDULER: Scheduler = Toy()
'''


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of `cluster`, with the toy's file in its place and a profile for it."""
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "cluster", tmp_path / "cluster", ignore=leave_out)
    shutil.copytree(REPOSITORY / "conf" / "sites", tmp_path / "conf" / "sites")
    (tmp_path / "cluster" / "schedulers" / "toy.py").write_text(TOY)
    (tmp_path / "conf" / "sites" / "play.yaml").write_text("scheduler: toy\n")
    (tmp_path / "queue").mkdir()
    return tmp_path


def cluster(house: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(house), "KOSEN_HOME": str(house / "home")}
    environment |= {"TOY_QUEUE": str(house / "queue"), "HOME": str(house), **variables}
    command = [sys.executable, "-m", *(arguments if arguments[0].startswith("cluster") else ("cluster", *arguments))]
    return subprocess.run(command, env=environment, cwd=house, capture_output=True, text=True, timeout=120, check=False)


def test_a_scheduler_is_one_file(house: Path) -> None:
    done = cluster(house, "up", "--site", "play", "--nodes", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "#!/bin/sh\n#TOY -N play -n 2\npython -m cluster.head.batch play\n"
    assert list((house / "queue").iterdir()) == []


def test_its_jobs_are_submitted_shown_and_ended(house: Path) -> None:
    done = cluster(house, "run", "--site", "play", "--name", "p", "--no-wait", "--", "true")
    assert (done.returncode, done.stdout) == (0, "1.toy\n"), done.stderr
    shown = cluster(house, "status")
    assert "Toy Engine job 1.toy: qw" in shown.stdout, shown.stderr
    seen = json.loads(cluster(house, "status", "--json").stdout)
    assert [job["state"] for job in seen["toy_jobs"]] == ["qw"]
    ended = cluster(house, "down")
    assert ended.stderr == "cluster 'p' is down (job 1.toy)\n"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nodelist=n1", "the Toy Engine chooses the nodes itself"),
        ("group=us", "unknown key group. Did you mean account?"),
        ("scheduler=pbs", "scheduler='pbs' is not known. Expected one of local, slurm, toy"),
    ],
)
def test_it_has_rules_of_its_own(house: Path, override: str, said: str) -> None:
    done = cluster(house, "up", "--site", "play", "--dry-run", override)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["base", "slurm_text", "step", "none", "../slurm", "", "Slurm", "os"])
def test_what_is_no_scheduler_is_refused(name: str) -> None:
    if not name:
        assert scheduler_of(name) is scheduler_of("slurm")  # the default of a profile that names none
        return
    with pytest.raises(ProfileError, match="Expected one of local, slurm"):
        scheduler_of(name)


def test_the_shipped_ones_have_the_name_of_their_file() -> None:
    assert [scheduler.name for scheduler in known_schedulers()] == ["slurm"]


def test_no_other_room_knows_slurm() -> None:
    code = [path for path in (REPOSITORY / "cluster").rglob("*.py") if path.parent.name != "schedulers"]
    assert len(code) > 40
    assert [path for path in code if re.search("slurm", path.read_text(encoding="utf-8"), re.IGNORECASE)] == []


# A cluster of before the seam: the files that its first job wrote, and the script with which its successor waits.
REQUEST = {
    "name": "c",
    "site_name": "osk",
    "site": {
        "scheduler": "slurm",
        "partition": "P04",
        "nodelist": "osk-gpu[60,62]",
        "account": None,
        "time": "6-00:00:00",
        "exclusive": True,
        "gpus_per_node": 8,
        "cpus_per_node": 64,
        "memory": "0",
        "sbatch": ["--qos=long"],
        "modules": [],
        "venv": None,
        "conda": None,
        "env": {},
        "interface": None,
        "ports": "20000-32767",
        "temp_dir": "/tmp",
        "login_host": None,
        "run_mode": "0700",
        "ready_timeout": 600,
        "grace": 300,
        "resubmit": 1,
    },
    "nodes": 2,
    "mode": "up",
    "run_root": "/r/runs",
    "cwd": "/r",
    "command": [],
}
LEDGER = (
    '{"event": "start", "batch_job": "7"}\n'
    '{"event": "successor", "batch_job": "7", "successor": "8"}\n'
    '{"event": "end", "batch_job": "7", "why": "finished", "interrupted": []}\n'
)
SCONTROL = """#!/bin/sh
[ "$2 $4" = "job 7" ] && exec echo JobId=7 JobState=COMPLETED Reason=None
exec echo Invalid job id specified >&2
"""


def test_a_successor_that_was_queued_before_the_seam_reads_what_it_finds(tmp_path: Path) -> None:
    folder, commands = tmp_path / "home" / "clusters" / "c", tmp_path / "bin"
    folder.mkdir(parents=True)
    commands.mkdir()
    (folder / "request.json").write_text(json.dumps(REQUEST))
    (folder / "ledger.jsonl").write_text(LEDGER)
    (commands / "scontrol").write_text(SCONTROL)
    (commands / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "8", "SLURM_JOB_NODELIST": "n1,n2", "SLURMD_NODENAME": "n1"}
    path = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = cluster(tmp_path, "cluster.batch", "c", "7", **job, **path)
    assert (done.returncode, done.stdout) == (0, "nothing to continue after job 7 (COMPLETED)\n"), done.stderr
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(event["job"], event["event"], event["state"]) for event in events] == [("8", "not_continued", "COMPLETED")]
