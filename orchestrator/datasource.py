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


def read_rows(dataset: str, *, split: str = "test", columns: Sequence[str] | None) -> Iterator[Row]:
    """The rows of `dataset`, reduced to those of `columns` that they have (None: all), one at a time.

    `split` matters only on the hub, where `owner/name:subset` names one of several subsets. Raises SpecError when there
    is no such data set, when it is not reachable from here, and, naming the line, when a file is broken.
    """
    path = Path(dataset).expanduser()
    try:
        for row in _rows(dataset, path, split, columns):
            yield row if columns is None else {name: value for name, value in row.items() if name in columns}
    except FileNotFoundError:
        raise SpecError(f"there is no data set file {path} (looked from {Path.cwd()})") from None
    except OSError as error:
        raise SpecError(f"cannot read the data set {path}: {error.strerror or error}") from None


def identify(dataset: str, split: str) -> dict[str, Any]:
    """What changes when the rows do: a file's size and time, or the fingerprint of the hub's client."""
    path = Path(dataset).expanduser()
    if _is_file(path):
        try:
            found = path.stat()
        except OSError as error:
            raise SpecError(f"there is no data set file {path} ({error.strerror}; looked from {Path.cwd()})") from None
        return {"path": str(path.absolute()), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    return {"name": dataset, "split": split, "fingerprint": _load_from_hub(dataset, split)._fingerprint}


def _is_file(path: Path) -> bool:
    """Whether a data set's name means a file, and not one of the hub or a folder in its layout."""
    if path.suffix.lower() not in FORMATS and path.is_file():
        raise SpecError(f"{path} is no data set that can be read; expected {', '.join(FORMATS)}")
    return path.suffix.lower() in FORMATS and not path.is_dir()


def _rows(dataset: str, path: Path, split: str, columns: Sequence[str] | None) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if not _is_file(path):
        return _hub_rows(dataset, split, columns)
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    return {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}[suffix](path)


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of rows, an object with the list under `rows` or `data`, or, by another suffix, JSON lines."""
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # broken JSON, not UTF-8, or thousands of brackets in one another
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
            except (ValueError, RecursionError) as error:
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


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            present = [column for column in columns if column in names] if columns is not None else None
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=present):
                yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:  # a text column may hold bytes that are no text
        raise SpecError(f"{path} is not a valid Parquet file: {str(error).splitlines()[0]}") from None


def _hub_rows(name: str, split: str, columns: Sequence[str] | None) -> Iterator[Row]:
    data = _load_from_hub(name, split)
    if columns is None:
        return iter(data)
    # Columns that nobody asked for may hold pictures, whose decoding takes longer than everything else.
    return iter(data.select_columns([column for column in columns if column in data.column_names]))


def _load_from_hub(name: str, split: str) -> Any:
    import datasets  # seconds; only who reads from the hub pays for it

    repository, _, subset = name.partition(":")
    try:
        return datasets.load_dataset(repository, subset or None, split=split, token=secrets.find("HF_TOKEN"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SpecError(_hub_advice(name, error, datasets.config.HF_HUB_OFFLINE)) from None


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
            f"the data set {name} is not in the local cache and {why}. Where there is internet, give the same command, "
            "or python -m jobs.prefetch with the job's arguments, then come back with the same HF_HOME"
        )
    return f"cannot load the data set {name} ({text}). Expected a local file or a data set's name on huggingface.co"


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise SpecError(f"{where} is a {type(row).__name__}, expected an object")
    return row
