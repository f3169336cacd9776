"""Training data: rows in the usual shapes become the Parquet files that verl reads, and a report says what was kept.

Rows are streamed: a batch is read, checked, counted in tokens and written as a row group. A kept row is kept whole;
one that cannot be trained on is dropped, counted and named, never repaired or cut.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from pydantic import BaseModel

from orchestrator.datasource import identify, read_rows
from orchestrator.errors import SpecError, storage_error
from orchestrator.records import write_atomic
from orchestrator.spec import first_line
from orchestrator.training.formats import Message, Shape, UnfitError, conversation_shape, question_shape, verl_shape
from orchestrator.training.tokens import TokenCounter

BATCH_ROWS = 2000  # checked, tokenized and written at a time; also the row group of the Parquet file
REPORT = "report.json"
VERSION = 1  # of this conversion: raised when the same rows would become other ones

Row = dict[str, Any]


class Dropped(BaseModel):
    """Rows that were left out for one reason, and what was wrong with the first of them (counted from 1)."""

    reason: str
    rows: int
    first_row: int
    example: str


class Tokens(BaseModel):
    """Lengths of the kept rows by the model's chat template."""

    min: int
    median: float
    max: int
    total: int


class Report(BaseModel):
    """What became of a data set; kept beside the Parquet file, under its name, in report.json."""

    source: str
    format: str
    rows: int
    kept: int
    dropped: list[Dropped] = []
    unused_columns: list[str] = []
    tokens: Tokens | None = None
    fingerprint: dict[str, Any] = {}

    def sentence(self) -> str:
        """The report for a user, in one line."""
        text = f"{self.source}: {self.kept:,} of {self.rows:,} rows kept ({self.format})"
        if self.tokens:
            text += f", {self.tokens.total:,} tokens, median {self.tokens.median:,.0f}, longest {self.tokens.max:,}"
        for drop in self.dropped:
            text += f"; {drop.rows:,} dropped, {drop.reason} (first: row {drop.first_row}, {drop.example})"
        if self.unused_columns:
            text += f"; columns not used: {', '.join(self.unused_columns)}"
        return text


def convert_sft(
    source: str,
    out: Path,
    *,
    split: str = "train",
    tokenizer_path: str | None = None,
    max_length: int | None = None,
    change: Callable[[Row], Row] | None = None,
) -> Report:
    """Rows of conversations → a Parquet file at `out` with a column `messages`, as verl's SFT reads it.

    `max_length` (tokens) needs the tokenizer, as the lengths in the report do. `change` is applied to each row first.
    What was done before with the same source and settings is not done again. Raises SpecError when no row is kept.
    """
    options = {"to": "sft", "tokenizer": tokenizer_path, "max_length": max_length}

    def shape_of(columns: Sequence[str]) -> Shape:
        found = conversation_shape(columns)
        if found is None:
            raise SpecError(
                f"the rows of {source} have the columns {', '.join(columns)}. Expected messages; conversations; "
                "instruction, output; prompt, response; or question, answer"
            )
        return found

    def finish(messages: list[Message], number: int) -> tuple[Row, list[Message]]:
        return {"messages": messages}, messages

    return _convert(source, out, split, options, shape_of, finish, change)


def convert_ppo(
    source: str,
    out: Path,
    *,
    split: str = "train",
    data_source: str | None = None,
    tokenizer_path: str | None = None,
    max_prompt_length: int | None = None,
    question_key: str | None = None,
    answer_key: str | None = None,
    change: Callable[[Row], Row] | None = None,
) -> Report:
    """Questions and answers → a Parquet file at `out` in verl's schema for PPO; rows in that schema pass as they are.

    `data_source` names the reward (verl's own rewards go by it; default: `source`). The rest as in `convert_sft`.
    """
    reward_name = data_source or source
    options = {
        "to": "ppo",
        "tokenizer": tokenizer_path,
        "max_length": max_prompt_length,
        "data_source": reward_name,
        "keys": [question_key, answer_key],
    }

    def shape_of(columns: Sequence[str]) -> Shape:
        found = verl_shape(columns) or question_shape(columns, question_key, answer_key)
        if found is None:
            raise SpecError(
                f"the rows of {source} have the columns {', '.join(columns)}. Expected verl's data_source, prompt, "
                "reward_model; question, answer; prompt, response; or give question_key= and answer_key="
            )
        return found

    def finish(read: Any, number: int) -> tuple[Row, list[Message]]:
        if isinstance(read, Mapping):
            return dict(read), read["prompt"]
        prompt, answer = read
        return rl_row(prompt, answer, reward_name, split, number - 1), prompt

    return _convert(source, out, split, options, shape_of, finish, change)


def rl_row(
    prompt: list[Message], gold: str, data_source: str, split: str, index: int, extra: dict[str, str] | None = None
) -> Row:
    """One row of verl's schema for PPO, judged by a rule against `gold`; `extra` goes along for the reward."""
    return {
        "data_source": data_source,
        "prompt": prompt,
        "ability": "",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": split, "index": index, **(extra or {})},
    }


def read_report(parquet: Path) -> Report | None:
    """The report of a Parquet file that was written here; None where there is none."""
    if not parquet.exists():
        return None
    entry = _reports(parquet.parent).get(parquet.name)
    return Report.model_validate(entry) if entry else None


def _convert(
    source: str,
    out: Path,
    split: str,
    options: dict[str, Any],
    shape_of: Callable[[Sequence[str]], Shape],
    finish: Callable[[Any, int], tuple[Row, list[Message]]],
    change: Callable[[Row], Row] | None,
) -> Report:
    fingerprint = {
        "version": VERSION,
        "split": split,
        "source": identify(source, split),
        "tokenizer_files": _file_times(options["tokenizer"]),
        "change": getattr(change, "__qualname__", None),
        **options,
    }
    fingerprint = orjson.loads(orjson.dumps(fingerprint))
    done = read_report(out)
    if done and done.fingerprint == fingerprint:
        return done
    rows: Iterable[Row] = read_rows(source, split=split, columns=None)
    rows = map(change, rows) if change else rows
    counter = TokenCounter(options["tokenizer"], prompt=options["to"] == "ppo") if options["tokenizer"] else None
    sieve = _Sieve(source, shape_of, finish, counter, options["max_length"])
    _keep_report(out, None)  # the old one must not vouch for the new rows
    _write(sieve.batches(rows), out, source)
    report = sieve.report().model_copy(update={"fingerprint": fingerprint})
    _keep_report(out, report)
    return report


class _Sieve:
    """Passes on the rows that can be trained on, and remembers the others."""

    def __init__(
        self,
        source: str,
        shape_of: Callable[[Sequence[str]], Shape],
        finish: Callable[[Any, int], tuple[Row, list[Message]]],
        counter: TokenCounter | None,
        max_length: int | None,
    ) -> None:
        self._source = source
        self._shape_of = shape_of
        self._finish = finish
        self._counter = counter
        self._max_length = max_length
        self._shape: Shape | None = None
        self._columns: list[str] = []
        self._rows = 0
        self._kept = 0
        self._lengths = array("l")
        self._dropped: dict[str, Dropped] = {}

    def batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """The kept rows, some thousand at a time. Raises SpecError at the end when there is none."""
        numbered = enumerate(rows, start=1)
        while chunk := list(islice(numbered, BATCH_ROWS)):
            if batch := self._short_enough(self._fit(chunk)):
                self._kept += len(batch)
                yield batch
        if not self._kept:
            raise SpecError(self._why_none())

    def report(self) -> Report:
        lengths = sorted(self._lengths)
        tokens = (
            Tokens(min=lengths[0], median=median(lengths), max=lengths[-1], total=sum(lengths)) if lengths else None
        )
        assert self._shape
        return Report(
            source=self._source,
            format=self._shape.name,
            rows=self._rows,
            kept=self._kept,
            dropped=sorted(self._dropped.values(), key=lambda drop: (-drop.rows, drop.first_row)),
            unused_columns=[column for column in self._columns if column not in self._shape.columns],
            tokens=tokens,
        )

    def _fit(self, chunk: list[tuple[int, Row]]) -> list[tuple[int, Row, list[Message]]]:
        fit = []
        for number, row in chunk:
            self._rows = number
            if self._shape is None:
                self._columns = list(row)
                self._shape = self._shape_of(self._columns)
            try:
                fit.append((number, *self._finish(self._shape.read(row), number)))
            except UnfitError as error:
                self._drop(number, error.reason, str(error))
        return fit

    def _short_enough(self, fit: list[tuple[int, Row, list[Message]]]) -> list[Row]:
        if self._counter is None:
            return [row for _, row, _ in fit]
        kept = []
        for (number, row, _), length in zip(fit, self._counter.count([turns for *_, turns in fit]), strict=True):
            if length is None:
                self._drop(number, "refused by the chat template", "the model's template raises an error for its roles")
            elif self._max_length is not None and length > self._max_length:
                self._drop(number, f"longer than {self._max_length:,} tokens", f"{length:,} tokens")
            else:
                self._lengths.append(length)
                kept.append(row)
        return kept

    def _drop(self, number: int, reason: str, example: str) -> None:
        drop = self._dropped.setdefault(reason, Dropped(reason=reason, rows=0, first_row=number, example=example))
        drop.rows += 1

    def _why_none(self) -> str:
        if not self._dropped:
            return f"{self._source} has no rows"
        worst = max(self._dropped.values(), key=lambda drop: drop.rows)
        return (
            f"none of the {self._rows:,} rows of {self._source} can be trained on; {worst.rows:,} of them: "
            f"{worst.reason} (row {worst.first_row}: {worst.example})"
        )


def _write(batches: Iterator[list[Row]], out: Path, source: str) -> None:
    """A row group a batch, all of them with the types of the first; the file appears when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = out.with_name(f".{out.name}.{os.getpid()}")
    writer = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            table = pa.Table.from_pylist(batch)
            writer = writer or pq.ParquetWriter(draft, table.schema)
            if not _fits(pa.struct(table.schema), pa.struct(writer.schema)):
                raise SpecError(f"the rows of {source} have fields of several types, so they fit no Parquet file")
            writer.write_table(table.cast(writer.schema))
        assert writer  # `batches` raises where there is nothing
        writer.close()
        draft.replace(out)
    except pa.ArrowException as error:
        raise SpecError(f"the rows of {source} fit no Parquet file: {first_line(error)}") from None
    except OSError as error:
        raise storage_error(error, out) from None
    finally:
        draft.unlink(missing_ok=True)


def _fits(part: Any, whole: Any) -> bool:
    """Whether values of one Arrow type become another's without loss; Arrow's own cast drops fields in silence."""
    import pyarrow as pa

    if part == whole or pa.types.is_null(part):
        return True
    if pa.types.is_list(part) and pa.types.is_list(whole):
        return _fits(part.value_type, whole.value_type)
    if pa.types.is_struct(part) and pa.types.is_struct(whole):
        known = {field.name: field.type for field in whole}
        return all(field.name in known and _fits(field.type, known[field.name]) for field in part)
    return False


def _reports(folder: Path) -> dict[str, Any]:
    try:
        return dict(orjson.loads((folder / REPORT).read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}


def _keep_report(out: Path, report: Report | None) -> None:
    others = {name: entry for name, entry in _reports(out.parent).items() if name != out.name}
    content = others | ({out.name: report.model_dump()} if report else {})
    write_atomic(out.parent / REPORT, orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")


def _file_times(tokenizer: str | None) -> dict[str, int]:
    """When the files of a local tokenizer changed; one of the hub goes by its name."""
    folder = Path(tokenizer).expanduser() if tokenizer else None
    if folder is None or not folder.is_dir():
        return {}
    files = [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]
    return {path.name: path.stat().st_mtime_ns for path in sorted(files)}
