"""Rows of a data set: a local JSON, JSONL, CSV or Parquet file, or one of the Hugging Face hub."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator import secrets
from orchestrator.errors import SpecError

Row = dict[str, Any]
FORMATS = (".json", ".jsonl", ".csv", ".parquet")
BATCH_ROWS = 256  # of a Parquet file held at once; rows with images can be megabytes


def read_rows(dataset: str, *, split: str = "test", columns: Sequence[str]) -> Iterator[Row]:
    """The rows of `dataset`, reduced to those of `columns` that they have, one at a time.

    `split` matters only on the hub. Raises SpecError when there is no such data set, when it is not reachable from
    here, and, naming the line, when a file is broken.
    """
    path = Path(dataset).expanduser()
    wanted = set(columns)
    try:
        for row in _rows(dataset, path, split, columns):
            yield {name: value for name, value in row.items() if name in wanted}
    except FileNotFoundError:
        raise SpecError(f"there is no data set file {path} (looked from {Path.cwd()})") from None
    except OSError as error:
        raise SpecError(f"cannot read the data set {path}: {error.strerror or error}") from None


def _rows(dataset: str, path: Path, split: str, columns: Sequence[str]) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS and path.is_file():
        raise SpecError(f"{path} is no data set that can be read; expected {', '.join(FORMATS)}")
    if suffix not in FORMATS or path.is_dir():
        return _hub_rows(dataset, split, columns)
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    return {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}[suffix](path)


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of rows, an object with the list under `rows` or `data`, or, by another suffix, JSON lines."""
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:  # broken JSON, or not UTF-8
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _jsonl_rows(path)
            return
        raise SpecError(f"{path} is not valid JSON: {error}") from None
    del text
    if isinstance(content, dict):
        content = next((content[name] for name in ("rows", "data") if name in content), [content])
    if not isinstance(content, list):
        raise SpecError(f"{path} holds no list of rows; expected [{{…}}, …], or such a list under rows or data")
    for number, row in enumerate(content, start=1):
        yield _checked(row, f"{path}, row {number}")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SpecError(f"{path}, line {number} is not valid JSON: {error}") from None
            yield _checked(row, f"{path}, line {number}")


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is less than one image
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    fields = len(reader.fieldnames or ())
                    raise SpecError(
                        f"{path}, line {reader.line_num}: the row does not have the header's {fields} fields"
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise SpecError(f"{path}, line {reader.line_num + 1} is not valid CSV: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=present):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise SpecError(f"{path} is not a valid Parquet file: {str(error).splitlines()[0]}") from None


def _hub_rows(name: str, split: str, columns: Sequence[str]) -> Iterator[Row]:
    import datasets  # seconds; only who reads from the hub pays for it

    try:
        data = datasets.load_dataset(name, split=split, token=secrets.find("HF_TOKEN"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SpecError(_hub_advice(name, error, datasets.config.HF_HUB_OFFLINE)) from None
    # Columns that nobody asked for may hold pictures, whose decoding takes longer than everything else.
    return iter(data.select_columns([column for column in columns if column in data.column_names]))


def _hub_advice(name: str, error: Exception, offline: bool) -> str:
    """What to tell a user for each way in which the hub's client fails."""
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if "gated" in str(error).lower():
        return (
            f"the data set {name} is gated. Accept its terms at https://huggingface.co/datasets/{name}, then put "
            f"HF_TOKEN=… of that account into {secrets.secrets_file()} (mode 0600)"
        )
    if isinstance(error, ConnectionError) or (offline and "cache" in text):
        why = "HF_HUB_OFFLINE is set" if offline else "the hub is not reachable from here"
        return (
            f"the data set {name} is not in the local cache and {why}. Where there is internet, give python -m "
            "jobs.prefetch with the same --config and key=value arguments, then come back with the same HF_HOME"
        )
    return f"cannot load the data set {name} ({text}). Expected a local file or a data set's name on huggingface.co"


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise SpecError(f"{where} is a {type(row).__name__}, expected an object")
    return row
