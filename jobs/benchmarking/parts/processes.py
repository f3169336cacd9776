"""Processes that the benchmark starts."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[None]:
    """Stops what still runs after the block, and kills it when it has not stopped within `seconds`."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
