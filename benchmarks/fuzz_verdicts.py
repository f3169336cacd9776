"""Feeds random inputs to the readers of judges' replies and of data rows: nothing may be raised but what they promise.

    python benchmarks/fuzz_verdicts.py --inputs 1000000 --seed 1

Each input comes from its own seed, which a failure prints: `--seed N --inputs 1` gives it again. Beside exceptions it
looks for lies: a "yes" out of a reply whose verdict is no, valid and broken, and rows neither taken nor refused.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jobs.tasks import hle
from jobs.tasks.verdicts import parse_verdict
from orchestrator.data.source import read_rows
from orchestrator.errors import SpecError

REPLY = '{"extracted_final_answer": "5", "reasoning": "same", "correct": "no", "confidence": 80, "strict": true}'
# Judges whose verdict is no, and who quote what they judge as it is.
QUOTING = [
    '{"reasoning": "%s", "correct": "no"}',
    '{"correct": "no", "reasoning": "%s"}',
    "correct: no\n%s",
    "%s\ncorrect: no",
]
QUOTING += [
    "{'reasoning': '%s', 'correct': 'no'}",
    '{"reasoning": "%s", "correct": false,}',
    "reasoning: %s\ncorrect: いいえ",
]
QUOTING += [
    'The response says %s.\n\n```json\n{"correct": "no"}\n```',
    '<think>hm</think>{"reasoning": "%s", "correct": "no"}',
]
QUOTING += ["Verdict: no\n\nThe response:\n%s", '{"reasoning": "%s", "correct": "No, it is off by one"}']
PIECES = [
    *"{}[]\"'`“”\\|<>:：,.#*/-_ \n\r\t\x00",
    "```",
    "```json\n",
    "correct",
    "yes",
    "no",
    "true",
    "はい",
    "不正解",
    "null",
]
PIECES += [
    '"correct": "yes"',
    '{"correct": "yes"}',
    "correct: yes\n",
    "correct: no",
    '"reasoning": "',
    "confidence",
    "80%",
]
PIECES += [
    "</think>",
    "<think>",
    "[THINK]",
    "<|channel|>",
    "\\frac{1}{2}",
    "\\u12",
    "\\ud800",
    "\ud800",
    "\ufdd0",
    "\ufdd1",
]
PIECES += [
    "// x\n",
    "/* */",
    "| correct |\n|---|\n| yes |",
    "<correct>yes</correct>",
    "1. ",
    "The response says:\n",
    REPLY,
]
PIECES += [
    "is wrong",
    "is not correct",
    "1e999",
    "NaN",
    "9" * 50,
    "判定：",
    "ｙｅｓ",
    "\u2028",
    "\x1b[0m",
    "𝟗",
    "İ",
    "ß",
]
ROW: dict[str, Any] = {
    "id": "a",
    "question": "1+1?",
    "answer": "2",
    "answer_type": "exactMatch",
    "category": "Math",
    "image": "",
}
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "nan",
    "x",
    "\ud800",
    "\x00",
    [],
    {},
    [[]],
    b"",
    b"\xff",
]
VALUES += [
    10**40,
    ["x"],
    {"bytes": b"\x89PNG\r\n\x1a\n"},
    {"bytes": None, "path": None},
    {"path": "x"},
    "data:image/png;base64,",
    "http://x",
]


def reply(chance: random.Random) -> tuple[str, str]:
    """A reply and a thought: pieces in any order, or a whole reply with a few of its characters changed."""
    if chance.random() < 0.5:
        text = "".join(chance.choices(PIECES, k=chance.randrange(24)))
    else:
        text = chance.choice(PIECES) + REPLY
        for _ in range(chance.randrange(6)):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice([*PIECES, ""]) + text[place + chance.randrange(4) :]
    return text, "".join(chance.choices(PIECES, k=chance.randrange(4))) if chance.random() < 0.2 else ""


def read_reply(chance: random.Random) -> str:
    """Read one reply; and one valid reply that says no, whatever its strings hold."""
    text, thought = reply(chance)
    verdict = parse_verdict(text, thought)
    if verdict:
        verdict.reasoning.encode()
        (verdict.extracted_answer or "").encode()
    whole = json.dumps({"reasoning": text, "correct": "no", "extracted_final_answer": thought})
    said = parse_verdict(chance.choice(["{}", "```json\n{}\n```", " {}\n", "<think>hm</think>{}"]).replace("{}", whole))
    assert said and said.verdict == "no", whole
    answer = text.replace('"correct": "no"', '"correct": "yes"').replace("correct: no", "correct: yes")
    quoting = chance.choice(QUOTING).replace("%s", answer)
    said = parse_verdict(quoting)
    assert said is None or said.verdict == "no", quoting
    return verdict.verdict if verdict else "unjudged"


def rows(chance: random.Random) -> list[Any]:
    found: list[Any] = []
    for number in range(chance.randrange(1, 4)):
        row: Any = ROW | {"id": str(number)}
        for name in chance.sample([*ROW, "gold", "x"], k=chance.randrange(3)):
            if chance.random() < 0.2:
                row.pop(name, None)
            else:
                row[name] = chance.choice(VALUES)
        found.append(row if chance.random() < 0.98 else chance.choice(VALUES))
    return found


def make_items(chance: random.Random) -> str:
    """Make items of a few odd rows."""
    given = rows(chance)
    try:
        items = hle.items_from_rows(given, lambda _: None)
    except ValueError as error:
        assert "\n" not in str(error), error
        return "refused"
    assert 1 <= len(items) <= len(given)
    return "taken"


def read_file(chance: random.Random, path: Path) -> str:
    """Read one damaged JSON, JSONL or CSV file and make items of it."""
    suffix = chance.choice([".json", ".jsonl", ".csv"])
    lines = [json.dumps(row, default=str) for row in rows(chance)]
    if suffix == ".csv":
        text = ",".join(ROW) + "\n" + "".join(",".join(str(value) for value in ROW.values()) + "\n" for _ in lines)
    else:
        text = "[" + ",".join(lines) + "]" if suffix == ".json" else "\n".join(lines)
    content = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(content))
        content[place : place + chance.randrange(3)] = chance.choice(PIECES).encode(errors="surrogatepass")
    file = path.with_suffix(suffix)
    file.write_bytes(content)
    try:
        hle.items_from_rows(read_rows(str(file), columns=hle.COLUMNS), lambda _: None)
    except (ValueError, SpecError):
        return "refused"
    return "taken"


def fuzz(name: str, read: Callable[[random.Random], str], inputs: int, seed: int) -> Counter[str]:
    """How often each result came. What a reader raises is raised with the seed of its input."""
    results: Counter[str] = Counter()
    for number in range(seed, seed + inputs):
        try:
            results[read(random.Random(number))] += 1
        except Exception as error:
            raise RuntimeError(f"{name}, seed {number}: {error!r}") from error
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="for each reader; files are a tenth of them")
    parser.add_argument("--seed", type=int, default=1, help="of the first input; the next ones follow")
    parser.add_argument("--only", choices=["replies", "rows", "files"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows")
        readers: dict[str, tuple[Callable[[random.Random], str], int]] = {
            "replies": (read_reply, args.inputs),
            "rows": (make_items, args.inputs),
            "files": (lambda chance: read_file(chance, file), max(1, args.inputs // 10)),
        }
        for name, (read, inputs) in readers.items():
            if args.only in (None, name):
                start = time.monotonic()
                results = fuzz(name, read, inputs, args.seed)
                took = time.monotonic() - start
                print(
                    f"{name}: {inputs:,} inputs from seed {args.seed}, {dict(results)}, {took:.0f} s", file=sys.stdout
                )


if __name__ == "__main__":
    main()
