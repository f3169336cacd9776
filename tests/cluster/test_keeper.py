"""What a node leaves behind when signals fall on its cleaning, and which logs it keeps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from cluster.machine import logs
from cluster.machine.logs import keep_logs
from cluster.machine.processes import is_running, processes_of

# A Ray that ignores TERM for as long as it may, kept as node.py keeps it.
KEEP = """
import signal, sys
from pathlib import Path
from cluster.node import ray_keeper
from cluster.node import agent
from cluster.node.ray_keeper import Keeper
from cluster.machine.ray_command import RayNode
folder, stubborn = Path(sys.argv[1]), "trap '' TERM; touch $RAY_TMPDIR/up; while :; do sleep 0.1; done"
ray_keeper.ray_command = lambda _: ["sh", "-c", stubborn]
ray_keeper.is_listening = lambda *_: True
ports = dict.fromkeys(["autoscaler_metrics", "dashboard_metrics"], 1)
plan = lambda temp_dir, head: RayNode(ip="127.0.0.1", ports=ports, temp_dir=temp_dir, token=folder / "token", cpus=1,
                                      gpus=0, object_store=1, head=head)
for number in ray_keeper.STOP_SIGNALS:
    signal.signal(number, agent._stop)
with (folder / "log").open("a") as log:
    kept = Keeper(plan, job_id="7", temp_root=str(folder / "tmp"), environment={"PATH": "/bin:/usr/bin"},
                  kept_logs=folder / "kept", log=log, tell=print)
    try:
        kept.keep_worker("127.0.0.1:1")
    except agent.Stop:
        kept.end()
        print("clean", flush=True)
"""


def wait_for(what: str, folder: Path, seconds: float = 20) -> Path:
    deadline = time.monotonic() + seconds
    while not (found := list(folder.glob("kosen-*/r/up"))):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found[0]


def test_signals_during_the_cleaning_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "token").write_text("secret")
    command = [sys.executable, "-c", KEEP, str(tmp_path)]
    keeping = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        temp_dir = wait_for("the stand-in for Ray did not start", tmp_path / "tmp").parent
        ray = processes_of(str(temp_dir))
        assert ray
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
            keeping.send_signal(number)  # Ray takes 3 seconds to end, so all of them fall into the cleaning
            time.sleep(0.2)
        output, _ = keeping.communicate(timeout=30)
    finally:
        keeping.kill()
    assert (keeping.returncode, output) == (0, "clean\n")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not any(map(is_running, ray))


def test_logs_are_kept_without_the_token_and_in_the_place_of_the_former(tmp_path: Path) -> None:
    source, target = tmp_path / "logs", tmp_path / "kept"
    (source / "old").mkdir(parents=True)
    (source / "dashboard.log").write_text("Authorization: Bearer secret\n")
    (source / "old" / "worker.out").write_text("hello")
    (source / "link").symlink_to(source / "dashboard.log")
    target.mkdir()
    (target / "former").touch()
    keep_logs(source, target, b"secret")
    kept = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert kept == {"dashboard.log", "old/worker.out"}
    assert (target / "dashboard.log").read_text() == "Authorization: Bearer <token>\n"


def test_logs_are_kept_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_LIMIT", 100)
    monkeypatch.setattr(logs, "TOTAL_LIMIT", 250)
    source, target = tmp_path / "logs", tmp_path / "kept"
    source.mkdir()
    (source / "small").write_text("x")
    (source / "long").write_text("".join(f"line {number:03}\n" for number in range(100)))
    for name in "ab":
        (source / name).write_bytes(os.urandom(5000))
    keep_logs(source, target, b"")
    assert sorted(path.name for path in target.iterdir())[-2:] == ["long", "small"]
    assert len(list(target.iterdir())) == 3
    assert (target / "long").read_text().splitlines()[0] == "line 089"
    assert (target / "long").read_text().endswith("line 099\n")
    monkeypatch.setattr(logs, "SECONDS", -1.0)
    keep_logs(source, target, b"")
    assert not target.exists()
    keep_logs(tmp_path / "none", target, b"")
