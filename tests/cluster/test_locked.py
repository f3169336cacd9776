"""A lock that is waited for: taken, shared, given back, and not waited for without an end."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.files import locked

LATE = RuntimeError("others hold it")


@pytest.mark.parametrize("take", [fcntl.flock, fcntl.lockf])
def test_it_is_held_until_the_block_ends(tmp_path: Path, take: Callable[..., object]) -> None:
    path = tmp_path / "lock"
    with locked(path, 0.0, LATE, take=take):
        assert path.exists()
    with locked(path, 0.0, LATE, take=take):
        pass


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, 0.0, LATE), pytest.raises(RuntimeError, match="others hold it"), locked(path, 0.2, LATE):
        raise AssertionError("two hold it")


def test_several_may_share_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    shared, also_shared = (locked(path, 0.0, LATE, shared=True) for _ in range(2))
    with shared, also_shared, pytest.raises(RuntimeError), locked(path, 0.0, LATE):
        raise AssertionError("it is shared")
    with locked(path, 0.0, LATE):
        pass


def test_an_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", 5.0, LATE):
        raise BlockingIOError
