"""A user's command on a cluster: how it fails, in the words and numbers of a shell."""

from collections.abc import Sequence

from cluster.errors import ClusterError, reason


class NoCommand(ClusterError):
    """There is no such command, or it cannot be executed."""

    exit_code = 127


def cannot_run(command: Sequence[str], error: OSError) -> NoCommand:
    return NoCommand(f"cannot run {error.filename or command[0]!r}: {reason(error)}")


def shell_code(code: int) -> int:
    """The exit code as a shell has it: 128 + N for a command that signal N killed, which Python calls -N."""
    return code if code >= 0 else 128 - code
