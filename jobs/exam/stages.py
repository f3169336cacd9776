"""The stages of a run side by side, each in a thread of its own."""

import threading
from collections.abc import Callable, Sequence

from orchestrator.console import say
from orchestrator.errors import KosenError


class StageThread(threading.Thread):
    """A daemon, so that an interrupted driver does not wait for it. `error`: why it ended, if not well."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.error: BaseException | None = None
        self.told = False

    def is_over(self) -> bool:
        return bool(self.error) or not self.is_alive()

    def give_up(self, error: KosenError) -> None:
        """Nothing waits for it any more."""
        self.error = self.error or error

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.error = self.error or error


def tell_failures(threads: Sequence[StageThread]) -> None:
    """Report at once that a stage has failed if another keeps running, which may take hours."""
    going = [thread.name for thread in threads if not thread.is_over()]
    for thread in threads:
        if thread.error and going and not thread.told:
            thread.told = True
            say(f"{thread.name} has stopped, {' and '.join(going)} keeps running: {thread.error}")
