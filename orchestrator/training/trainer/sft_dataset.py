"""A training set whose unusable rows are reported as such, and not as the failure of some worker."""

from typing import Any

from orchestrator.spec import first_line
from orchestrator.training.folder import Failure, TrainingFolder


class Rows:
    """verl's data set, which reads, tokenizes and measures a row only when its batch comes up.

    By then the row may be in a data loader's process on any node, so the report goes through the run folder.
    """

    def __init__(self, rows: Any, name: str, folder: TrainingFolder) -> None:
        self._rows, self._name, self._folder = rows, name, folder

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._rows[index]
        except Exception as error:
            reason = f"row {index} (from 0) of the {self._name} set cannot be used: {first_line(error)}"
            self._folder.report_failure(Failure("data", reason))
            raise
