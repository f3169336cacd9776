"""A real Slurm cluster for a whole test session."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mini_slurm import MiniSlurm, missing
from slurm_harness import Kosen, ended

REPOSITORY = Path(__file__).resolve().parents[2]
SESSIONS = 8  # test sessions at the same time on one machine


@contextmanager
def free_slot() -> Iterator[int]:
    """A number that no other test session on this machine has."""
    for slot in range(SESSIONS):
        with Path(f"/run/kosen-slurm-test{slot}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield slot
            return
    pytest.skip(f"{SESSIONS} other test sessions have their Slurm clusters on this machine")


@pytest.fixture(scope="session")
def slurm() -> Iterator[MiniSlurm]:
    """Four nodes with 8 fake GPUs each; an allocation chooses how many it wants."""
    if reason := missing():
        pytest.skip(reason)
    with free_slot() as slot:
        cluster = MiniSlurm(
            nodes=4,
            node_down=300,  # Slurm's default; a node that a busy machine brings back late must not be given up
            share=(REPOSITORY,),
            repository=REPOSITORY,
            directory=Path(f"/var/lib/kosen-slurm-test{slot}"),
            net=f"10.{91 + slot}.0",
            prefix=f"kt{slot}",
        )
        with cluster:
            yield cluster


@pytest.fixture
def shared_home(slurm: MiniSlurm) -> Iterator[Path]:
    """A fresh folder that all nodes and this machine see, as KOSEN_HOME."""
    home = Path(tempfile.mkdtemp(dir=slurm.directory / "home"))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def kosen(slurm: MiniSlurm, shared_home: Path) -> Iterator[Kosen]:
    """`python -m cluster` with a state folder of its own; the clusters c and d are brought down at the end."""
    kosen = Kosen(slurm, shared_home)
    with ended(kosen, ("c", "d")):
        yield kosen
