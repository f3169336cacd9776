"""Data for verl's PPO that lets two trainings take turns: training_overhead.py has both name this class to verl."""

import time
from pathlib import Path
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

POLL = 0.005  # seconds


class Turns(RLHFDataset):
    """verl's data, which at each new batch hands the turn to the other training and waits to have it back.

    `<folder>/<name>.times` gets a line a step: its seconds from this batch to the next, and those waited before it. The
    group `turns` has the folder, the training's name, prompts a batch, and the seconds after which waiting is an error.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        turns = self.config.turns
        self._folder, self._name, self._batch, self._timeout = (
            Path(turns.folder),
            turns.name,
            turns.batch,
            turns.timeout,
        )
        self._given = 0
        self._began = self._waited = 0.0

    def __getitem__(self, item: int) -> Any:
        if self._given % self._batch == 0:
            self._next_turn()
        self._given += 1
        return super().__getitem__(item)

    def _next_turn(self) -> None:
        if self._given:
            with (self._folder / f"{self._name}.times").open("a") as stream:
                stream.write(f"{time.perf_counter() - self._began} {self._waited}\n")
            self._give_turn()
        asked = time.perf_counter()
        while not self._has_turn():
            if time.perf_counter() - asked > self._timeout:
                raise TimeoutError(f"no turn for {self._timeout:.0f} s")
            time.sleep(POLL)
        self._began = time.perf_counter()
        self._waited = self._began - asked

    def _give_turn(self) -> None:
        draft = self._folder / f"{self._name}.draft"
        draft.write_text("verl" if self._name == "kosen" else "kosen")
        draft.rename(self._folder / "turn")

    def _has_turn(self) -> bool:
        return (self._folder / "turn").read_text() == self._name or (self._folder / "alone").exists()
