"""A followed job's log as far as it was printed, and its end where following it ended early."""

from ray.job_submission import JobDetails

LAST_LINES = 10  # Ray keeps as many of a failed job's log with the job's state,
LAST_CHARACTERS = 20_000  # and this many characters of them at most,
BEGIN = "last available logs (truncated to 20,000 chars):\n"  # behind these words


class PrintedLog:
    """Following a log ends without an error when the node's agent goes away, whatever was written since."""

    def __init__(self) -> None:
        self._end = ""

    def add(self, text: str) -> None:
        print(text, end="", flush=True)
        self._end = (self._end + text)[-LAST_CHARACTERS:]

    def add_last_lines(self, details: JobDetails) -> None:
        """Print what the job's state has of the log's end and was not printed yet."""
        last = (details.message or "").partition(BEGIN)[2]
        known = next(size for size in range(len(last), -1, -1) if self._end.endswith(last[:size]))
        self.add(last[known:])

    @property
    def says_error(self) -> bool:
        """Whether the job said at its end, in the words of our commands, what went wrong."""
        return any(line.startswith("error: ") for line in self._end.splitlines()[-LAST_LINES:])
