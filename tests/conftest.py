"""Fixtures for all tests."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.harness import local_cluster
from tests.support.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from orchestrator.ray_cluster.connect import Cluster

# A shell has `make test-all &` ignore it, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes a folder of tests at a time, trainings apart from the rest; each has one local cluster."""
    from xdist.scheduler import LoadScopeScheduling

    class Folders(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = nodeid.split("/")[1]  # that of tests/cluster has one Slurm at a time
            return f"{folder}/training" if "/training/" in nodeid else folder

    return Folders(config, log)


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    """An OpenAI-compatible server with .base_url, .requests() and .control(mode)."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The state of one local cluster for the whole test session."""
    with local_cluster(tmp_path_factory.mktemp("kosen")) as state:
        yield state


@pytest.fixture(scope="module")
def connected(cluster: dict[str, Any]) -> Iterator["Cluster"]:
    """That cluster, this process connected to it."""
    from orchestrator.ray_cluster.connect import connect  # Ray, which most tests need not wait for

    with connect() as found:
        yield found
