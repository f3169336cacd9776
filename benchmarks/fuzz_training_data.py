"""Rows that nobody would write, through the readers of training data: every one is kept, dropped with a reason, or
ends its file in one sentence.

    python benchmarks/fuzz_training_data.py --rows 1000000 --seed 1

A failure prints the seed of its file; `--seed N --files 1` makes that file again.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator.errors import SpecError
from orchestrator.training.data import convert
from orchestrator.training.data.convert import convert_ppo, convert_sft

ROWS_OF_A_FILE = 2000
TEXTS = (
    *("a", "q", "72", "#### 72", "", " ", "\n", "nan", "null", "[]", "{}", "x²", "東京", "\u200b", "\x00", "\ud800"),
    *("[/bold]", "\x1b[31m", "<think>", "{% if %}", "../x", "'; --", "\u202e", "😀", "\ufeff", "é" * 300, "0", "false"),
)
NUMBERS = (0, 1, -1, 72, 72.0, 0.5, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, math.nan, math.inf, -math.inf, 1e300)
COLUMNS = (
    *("messages", "conversations", "prompt", "response", "question", "answer", "problem", "solution", "instruction"),
    *("input", "output", "context", "history", "system", "tools", "images", "reasoning", "weight", "train", "text"),
    *("data_source", "reward_model", "extra_info", "ability", "chosen", "rejected", "id", "", "\ud800", "a.b", "[x]"),
)
TURN_KEYS = (
    *("role", "from", "content", "value", "weight", "train", "loss", "mask", "name", "prefix", "tool_calls", "id"),
    *("reasoning_content", "images", "timestamp", "", "\ud800", "ROLE", "Content"),
)
ROLES = ("user", "assistant", "system", "human", "gpt", "tool", "model", "robot", "USER", "developer", "", None, 5)


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of JSON, mostly plain."""
    kind = rng.random()
    if kind < 0.5 or depth > 4:
        return rng.choice(TEXTS)
    if kind < 0.7:
        return rng.choice(NUMBERS)
    if kind < 0.8:
        return rng.choice((None, True, False))
    if kind < 0.9:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS + TURN_KEYS): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def turn(rng: random.Random, place: int) -> Any:
    if rng.random() < 0.05:
        return anything(rng)
    role, content = rng.choice((("role", "content"), ("role", "content"), ("from", "value"), ("role", "value")))
    made: dict[str, Any] = {role: ("user", "assistant")[place % 2], content: rng.choice(("q", "a", "72"))}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        key = rng.choice(TURN_KEYS)
        made[key] = rng.choice(ROLES) if key in ("role", "from") else anything(rng)
    return made


def turns(rng: random.Random) -> Any:
    return [turn(rng, place) for place in range(rng.choice((0, 1, 1, 2, 2, 2, 3, 4)))]


def row(rng: random.Random, base: dict[str, Any]) -> dict[str, Any]:
    """A row of the file's own columns, some of them spoiled, missing or new."""
    made = dict(base)
    for name in base:
        if name in ("messages", "conversations") or (name == "prompt" and "reward_model" in base):
            made[name] = turns(rng)
        elif rng.random() < 0.2:
            made[name] = anything(rng)
    if rng.random() < 0.1:
        made.pop(rng.choice(list(made)), None)
    if rng.random() < 0.15:
        made[rng.choice(COLUMNS)] = anything(rng)
    return made


def base_row(rng: random.Random) -> dict[str, Any]:
    """Columns that some shape knows, in most files."""
    known: tuple[dict[str, Any], ...] = (
        {"messages": []},
        {"conversations": [], "system": "s"},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "context": "c", "response": "a"},
        {"question": "q", "answer": "#### 72"},
        {"problem": "q", "solution": "s", "answer": 72},
        {
            "data_source": "s",
            "prompt": [],
            "reward_model": {"ground_truth": "72"},
            "extra_info": {"index": 1, "more": [{"a": 1}]},
        },
    )
    return rng.choice(known) if rng.random() < 0.95 else {rng.choice(COLUMNS): anything(rng) for _ in range(3)}


def try_file(seed: int, folder: Path, rows: int = ROWS_OF_A_FILE) -> Counter[str]:
    """What became of the rows of one file, by the reason. Any error but a SpecError is raised."""
    rng = random.Random(seed)
    base = base_row(rng)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row(rng, base)) + "\n" for _ in range(rows)))
    found: Counter[str] = Counter()
    for converted, name in ((convert_sft, "sft"), (convert_ppo, "ppo")):
        try:
            report = converted(str(path), folder / f"{name}.parquet")
        except SpecError as error:
            if "\n" in str(error) or len(str(error)) > 3000:
                raise ValueError(f"this is not a sentence: {error}") from error
            found[f"{name}: file refused, {str(error).partition(str(path))[2][:50]!r}"] += 1
            continue
        report.sentence().encode()
        if report.kept + sum(drop.rows for drop in report.dropped) != report.rows:
            raise ValueError(f"rows are lost: {report}")
        found[f"{name}: kept"] += report.kept
        for drop in report.dropped:
            found[f"{name}: {drop.reason}"] += drop.rows
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, help="instead of --rows")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    files = arguments.files or math.ceil(arguments.rows / ROWS_OF_A_FILE)
    began, total, failures = time.monotonic(), Counter[str](), 0
    convert.BATCH_ROWS = 500  # several batches a file
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + files):
            try:
                total += try_file(seed, Path(folder))
            except Exception:  # noqa: BLE001 - what this looks for
                failures += 1
                print(f"seed {seed}:\n{traceback.format_exc()}", file=sys.stderr)
    for reason, count in sorted(total.items()):
        print(f"{count:>10,}  {reason}")
    print(f"{files * ROWS_OF_A_FILE:,} rows in {files:,} files, {failures} failures, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
