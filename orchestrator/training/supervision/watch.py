"""Follows a trainer's journal: signs of life for the deadline, figures for the progress bar."""

import contextlib
import os
import time
from datetime import datetime
from typing import Any

from orchestrator.progress import Bars, bars
from orchestrator.training.folder import TrainingFolder, parse_lines
from orchestrator.training.supervision.outcome import latest

Line = dict[str, Any]


class Watch:
    """One attempt as its journal records it. To be opened while no trainer writes; a context manager, for the bar."""

    def __init__(self, folder: TrainingFolder) -> None:
        self.phase = "starting"
        self.step: int | None = None
        self._last_sign = time.monotonic()
        self._before: Line | None = None  # the line before the newest
        self._speed: float | None = None  # tokens a second
        self._figures: list[Line] = []  # the newest step
        self._bars: Bars | None = None
        self._screen = contextlib.ExitStack()
        self._path = folder.journal
        self._offset = _cut_torn_line(folder)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *reason: object) -> None:
        self._screen.close()

    def silence(self) -> float:
        """Seconds since the trainer's last sign of life."""
        return time.monotonic() - self._last_sign

    @property
    def planned(self) -> bool:
        """Whether the trainer has said which steps it will do: its workers run."""
        return self.step is not None

    def read(self) -> None:
        """Take in what the journal has got since the last call."""
        for line in self._new_lines():
            self._last_sign = time.monotonic()
            self._take(line)
            self._before = line
        if self._bars:
            self._bars.tick()

    def _new_lines(self) -> list[Line]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                text = stream.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return parse_lines(whole)

    def _take(self, line: Line) -> None:
        match line["event"]:
            case "phase":
                self.phase = line["phase"]
            case "plan":
                self.step = line["resumed_from"]
                if self._bars is None:
                    self._bars = self._screen.enter_context(bars({"steps": line["total_steps"]}))
            case "step":
                self.phase = "training"
                self.step = line["step"]
                self._figures = [line]
                self._speed = _tokens_a_second(line, self._before)
            case "checkpoint":
                self.phase = "training"
        if self._bars and self.step is not None:
            self._bars.update("steps", self.step, self._note())

    def _note(self) -> str:
        named = (("loss", "train/loss"), ("score", "critic/score/mean"))
        parts = [f"{name} {value:.4g}" for name, key in named if (value := latest(self._figures, key)) is not None]
        if self._speed is not None:
            parts.append(f"{self._speed:,.0f} tokens/s")
        if self.phase != "training":
            parts.append(self.phase)
        return ", ".join(parts)


def _tokens_a_second(line: Line, before: Line | None) -> float | None:
    """verl's PPO says how long a step took; of SFT the line before, a step or the end of something else, shows it."""
    tokens, seconds = latest([line], "perf/total_num_tokens"), latest([line], "perf/time_per_step")
    if tokens is None and before is not None:
        tokens = latest([line], "train/global_tokens")
        seconds = (datetime.fromisoformat(line["time"]) - datetime.fromisoformat(before["time"])).total_seconds()
    return tokens / seconds if tokens and seconds else None


def _cut_torn_line(folder: TrainingFolder) -> int:
    """Where the next line of the journal goes. A full disk leaves half a line, to which nothing must be appended."""
    if not folder.journal.exists():
        return 0
    text = folder.journal.read_bytes()
    end = text.rfind(b"\n") + 1
    if end < len(text):
        os.truncate(folder.journal, end)
    return end
