"""What goes wrong with a cluster, in sentences for its user. `cluster` stands alone, so the tree is its own."""


class ClusterError(Exception):
    """The cluster cannot be started, asked or stopped. The message says what was seen, expected, and what to do."""

    exit_code = 4


class ProfileError(ClusterError):
    """The site profile, the arguments, or what they ask of the scheduler are wrong."""

    exit_code = 2


class PreflightFailed(ClusterError):
    """A check before the work found something that would break it; the message names the node and the check."""


def reason(error: OSError) -> str:
    """An operating system's error as a few words, without its number."""
    return error.strerror or str(error)
