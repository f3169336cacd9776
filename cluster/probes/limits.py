"""The limits of this process that Ray, NCCL and model loaders run into."""

import resource
from contextlib import suppress
from dataclasses import dataclass

KINDS = {
    "open_files": resource.RLIMIT_NOFILE,
    "locked_memory": resource.RLIMIT_MEMLOCK,
    "address_space": resource.RLIMIT_AS,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Open files (`ulimit -n`, a number), locked memory (`-l`) and address space (`-v`, both in bytes).

    What holds now for this process and its children; None is unlimited.
    """

    open_files: int | None
    locked_memory: int | None
    address_space: int | None


def read_limits() -> Limits:
    return Limits(**{name: _read(kind) for name, kind in KINDS.items()})


def raise_soft_limits() -> Limits:
    """Raise each soft limit to its hard one, for this process and what it starts; the limits that hold then."""
    for kind in KINDS.values():
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # a sandbox may refuse what the kernel would allow
            resource.setrlimit(kind, (hard, hard))
    return read_limits()


def _read(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
