"""Training data: rows in the usual shapes become the Parquet files that verl reads, and a report says what was kept.

Rows are streamed, twice: once for the columns that they have, then a batch at a time is read, checked, counted in
tokens and written as a row group. A kept row is kept whole; one that cannot be trained on is dropped, counted and
named, never repaired or cut.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from cluster.files import expanded
from orchestrator.data.source import identify, read_rows
from orchestrator.errors import SpecError
from orchestrator.files import write_atomic
from orchestrator.training.data.cells import UnfitError
from orchestrator.training.data.formats import (
    RewardedQuestion,
    RowFormat,
    conversation_shape,
    question_shape,
    verl_shape,
)
from orchestrator.training.data.sieve import DataReport, Sieve, columns_of, some
from orchestrator.training.data.tokens import TokenCounter, is_here
from orchestrator.training.data.turns import Message

BATCH_ROWS = 2000  # checked, tokenized and written at a time; also the row group of the Parquet file
DRY_ROWS = 1000  # rows: a dry run reads so many
REPORT = "report.json"
VERSION = 2  # of this conversion: raised when the same rows would give other ones

Row = dict[str, Any]
Shaper = Callable[[Sequence[str]], RowFormat]


@dataclass(frozen=True)
class _Conversion:
    """How the rows of one source become rows of one kind."""

    source: str
    split: str
    options: dict[str, Any]  # what decides which rows come out, for the fingerprint
    shape_of: Shaper
    finish: Callable[[Any, int], tuple[Row, list[Message]]]


def convert_sft(
    source: str,
    out: Path | None,
    *,
    split: str = "train",
    tokenizer_path: str | None = None,
    max_length: int | None = None,
    shape_of: Shaper | None = None,
) -> DataReport:
    """Rows of conversations → a Parquet file at `out` with a column `messages`, as verl's SFT reads it.

    `max_length` (tokens) needs the tokenizer, as the lengths in the report do. `shape_of` reads a data set's own
    format. Without `out`, the first rows are checked, with the tokenizer if that is on this machine, and nothing is
    written. What was done before with the same source
    and settings is not done again. Raises SpecError when no row is kept.
    """
    options = {"to": "sft", "tokenizer": tokenizer_path, "max_length": max_length, "format": _name(shape_of)}

    def known(columns: Sequence[str]) -> RowFormat:
        found = conversation_shape(columns)
        if found is None:
            raise SpecError(
                f"the rows of {source} have the columns {some(columns)}. Expected messages; conversations; "
                "instruction, output; prompt, response; or question, answer"
            )
        return found

    def finish(messages: list[Message], number: int) -> tuple[Row, list[Message]]:
        return {"messages": messages}, messages

    return _convert(_Conversion(source, split, options, shape_of or known, finish), out)


def convert_ppo(
    source: str,
    out: Path | None,
    *,
    split: str = "train",
    data_source: str | None = None,
    tokenizer_path: str | None = None,
    max_prompt_length: int | None = None,
    question_key: str | None = None,
    answer_key: str | None = None,
    shape_of: Shaper | None = None,
    check_gold: Callable[[Any], str | None] | None = None,
) -> DataReport:
    """Questions and answers → a Parquet file at `out` in verl's schema for PPO; rows in that schema pass as they are.

    `data_source` names the reward (verl's own rewards go by it; default: `source`). `check_gold` says why the reward
    could compare nothing with a right answer, and None for a good one. The rest as in `convert_sft`.
    """
    from orchestrator.training.data.parquet import check_storable

    reward_name = data_source or source
    options = {
        "to": "ppo",
        "tokenizer": tokenizer_path,
        "max_length": max_prompt_length,
        "data_source": reward_name,
        "keys": [question_key, answer_key],
        "format": _name(shape_of),
        "gold": _name(check_gold),
    }

    def known(columns: Sequence[str]) -> RowFormat:
        return _shape_for_ppo(source, columns, question_key, answer_key)

    def finish(read: Row | RewardedQuestion, number: int) -> tuple[Row, list[Message]]:
        if isinstance(read, RewardedQuestion):
            row = rl_row(read.prompt, read.gold, reward_name, split, number - 1, read.extra)
            row["ability"] = read.ability
        else:
            row = dict(read)
        if check_gold and (why := check_gold(row["reward_model"]["ground_truth"])):
            raise UnfitError("no right answer for this reward", why)
        check_storable(row, "")
        return row, row["prompt"]

    return _convert(_Conversion(source, split, options, shape_of or known, finish), out)


def _shape_for_ppo(source: str, columns: Sequence[str], question_key: str | None, answer_key: str | None) -> RowFormat:
    found = verl_shape(columns) or question_shape(columns, question_key, answer_key)
    if found is None:
        missing = [key for key in (question_key, answer_key) if key and key not in columns]
        raise SpecError(
            f"the rows of {source} have the columns {some(columns)}"
            + (f", and no {' and no '.join(missing)}. " if missing else ". ")
            + "Expected verl's data_source, prompt, reward_model; question, answer; prompt, response; or give "
            "question_key= and answer_key="
        )
    return found


def rl_row(
    prompt: list[Message],
    gold: str,
    data_source: str,
    split: str,
    index: int,
    extra: Mapping[str, str] | None = None,
) -> Row:
    """One row of verl's schema for PPO, judged by a rule against `gold`; `extra` goes along for the reward."""
    return {
        "data_source": data_source,
        "prompt": prompt,
        "ability": "",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": split, "index": index, **(extra or {})},
    }


def read_report(parquet: Path) -> DataReport | None:
    """The report of a Parquet file that was written here; None where there is none."""
    if not parquet.exists():
        return None
    entry = _reports(parquet.parent).get(parquet.name)
    return DataReport.model_validate(entry) if entry else None


def _convert(to: _Conversion, out: Path | None) -> DataReport:
    if out is None:
        sieve, batches = _sift(to, DRY_ROWS)
        for _ in batches:
            pass
        found = sieve.report()
        return found.model_copy(update={"partial": found.rows == DRY_ROWS})
    fingerprint = {
        "version": VERSION,
        "split": to.split,
        "source": identify(to.source, to.split),
        "tokenizer_files": _file_times(to.options["tokenizer"]),
        **to.options,
    }
    fingerprint = orjson.loads(orjson.dumps(fingerprint))
    done = read_report(out)
    if done and _without_modules(done.fingerprint) == _without_modules(fingerprint):
        return done
    from orchestrator.training.data.parquet import write_messages, write_rows

    sieve, batches = _sift(to, None)
    _keep_report(out, None)  # the old one must not vouch for the new rows
    texts: list[str] = []
    if to.options["to"] == "sft":
        write_messages(batches, out, to.source)
    else:
        texts = write_rows(batches, out, to.source, sieve.drop_late)
    report = sieve.report().model_copy(update={"fingerprint": fingerprint, "stored_as_text": texts})
    _keep_report(out, report)
    return report


def _sift(to: _Conversion, limit: int | None) -> tuple[Sieve, Iterator[list[tuple[int, Row]]]]:
    """The rows that can be trained on, batch by batch, and who knows of the others."""

    def rows() -> Iterator[Row]:
        return islice(read_rows(to.source, split=to.split, columns=None), limit)

    columns, common = columns_of(rows())
    if not columns:
        raise SpecError(f"{to.source} has no rows, or none with anything in them")
    try:
        shape = to.shape_of(common)  # a few other rows do not decide the format
    except SpecError:
        shape = to.shape_of(columns)
    tokenizer = to.options["tokenizer"]
    if limit and tokenizer and not is_here(tokenizer):
        tokenizer = None
    counter = TokenCounter(tokenizer, prompt=to.options["to"] == "ppo") if tokenizer else None
    sieve = Sieve(to.source, columns, shape, to.finish, counter, to.options["max_length"])
    return sieve, sieve.batches(rows(), BATCH_ROWS)


def _name(function: object) -> str | None:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}" if function else None


def _without_modules(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """For a comparison: a function that has moved to another module since converts as it did."""
    functions = {key: fingerprint[key].rpartition(".")[2] for key in ("format", "gold") if fingerprint.get(key)}
    return {**fingerprint, **functions}


def _reports(folder: Path) -> dict[str, Any]:
    try:
        return dict(orjson.loads((folder / REPORT).read_bytes()))
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError, TypeError, ValueError):
        return {}


def _keep_report(out: Path, report: DataReport | None) -> None:
    others = {name: entry for name, entry in _reports(out.parent).items() if name != out.name}
    content = others | ({out.name: report.model_dump()} if report else {})
    write_atomic(out.parent / REPORT, orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")


def _file_times(tokenizer: str | None) -> dict[str, int]:
    """When the files of a local tokenizer changed; one of the hub goes by its name."""
    folder = expanded(tokenizer) if tokenizer else None
    if folder is None or not folder.is_dir():
        return {}
    files = [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]
    return {path.name: path.stat().st_mtime_ns for path in sorted(files)}
