"""Fixtures for all tests."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import their scripted server from every folder

from harness import local_cluster
from scripted_server import ScriptedServer

# A shell has `make test-all &` ignore it, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups that `make test` runs side by side, one with Slurm's cluster and the other with the local one."""
    slurm = Path(__file__).parent / "cluster"
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if slurm in item.path.parents else "local"))


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
