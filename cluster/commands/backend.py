"""Where a cluster runs: in a scheduler's queue or on this machine. The commands are the same."""

from collections.abc import Callable
from typing import Protocol

from cluster.commands.batch_system import BatchSystem
from cluster.commands.this_machine import ThisMachine
from cluster.folder.request import Request
from cluster.profile import THIS_MACHINE
from cluster.schedulers.base import scheduler_of
from cluster.state import ClusterState


class Backend(Protocol):
    """What `python -m cluster` asks for. `say` shows a line of progress; every method may raise ClusterError."""

    def check(self, request: Request) -> None:
        """Raise ProfileError for a request that this backend cannot fulfil."""

    def dry_run(self, request: Request, say: Callable[[str], None]) -> str:
        """What would be submitted or started, as text; nothing is."""

    def up(self, request: Request, *, ephemeral: bool, say: Callable[[str], None]) -> ClusterState:
        """Bring a cluster up and wait until it is ready; its state. An `ephemeral` one goes with its last job."""

    def run(self, request: Request, *, wait: bool, say: Callable[[str], None]) -> int:
        """Run the request's command on a cluster that goes down after it; the command's exit code."""

    def preflight(self, request: Request, say: Callable[[str], None]) -> int:
        """Check the nodes and print what was found; 0 unless something would break a job."""

    def down(self, name: str, *, if_unused: bool = False) -> str:
        """Take a cluster down; what happened, as a sentence."""

    def login_host(self, name: str) -> str | None:
        """The host through which a laptop reaches the cluster; None is this one."""

    def describe(self, state: ClusterState) -> list[str]:
        """How to use a cluster that is ready, one line each."""


def backend_of(scheduler: str | None) -> Backend:
    """The backend for the `scheduler` of a profile or a state file. Raises ProfileError for an unknown one."""
    return ThisMachine() if scheduler == THIS_MACHINE else BatchSystem(scheduler_of(scheduler))
