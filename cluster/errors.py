"""What goes wrong, in sentences for its user: the root of all errors of Kosen, and those of `cluster`.

They lie here because `cluster` imports neither `orchestrator` nor `jobs`; orchestrator.errors has those of a job.
"""

import argparse
from typing import NoReturn

INTERRUPTED = 130  # exit code of a command that Ctrl-C, a scheduler or `ray job stop` ended


class KosenError(Exception):
    """Base of all errors that a user can act on. The message says what was seen, what was expected, what to do."""

    exit_code = 4

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self._message = message

    def __str__(self) -> str:
        """The message as it was raised: Ray Data appends advice about its own retries to the arguments."""
        return self._message


class SpecError(KosenError):
    """The spec, the arguments or the data they name are wrong."""

    exit_code = 2


class ClusterError(KosenError):
    """The cluster cannot be started, asked or stopped."""


class ProfileError(ClusterError):
    """The site profile, or what it and the arguments ask of the scheduler are wrong."""

    exit_code = 2


class PreflightFailed(ClusterError):
    """A check before the work found something that would break it; the message names the node and the check."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are SpecErrors, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message}; {self.prog} --help shows all arguments")


def reason(error: OSError) -> str:
    """An operating system's error as a few words, without its number."""
    return error.strerror or str(error)
