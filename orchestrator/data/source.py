"""Rows of a data set: a local JSON, JSONL, CSV or Parquet file, or one of the Hugging Face hub.

`hf://datasets/owner/name/FILE` is one file of a data set of the hub, for those that the hub's client cannot load.
"""

import csv
import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, AnyStr, cast

from cluster.files import expanded
from orchestrator import secrets
from orchestrator.errors import SpecError

Row = dict[str, Any]
FORMATS = (".json", ".jsonl", ".csv", ".parquet")
LINED = (".jsonl", ".csv")  # formats that may be compressed: exam.csv.gz
HUB_FILE = "hf://datasets/"  # begins the name of one file of a data set on the hub
_HUB_FILE = re.compile(rf"{HUB_FILE}(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
BATCH_ROWS = 256  # of a Parquet file held at once; rows with images can be megabytes
# Bytes. A larger one is not meant as a data set: a device, a sparse file, a line that never ends.
LONGEST_LINE = 2**28
LARGEST_JSON = 2**32  # it is held as a whole


class PickedRow(dict[str, Any]):
    """A row reduced to the columns that were asked for; `columns` names all that its source has."""

    __slots__ = ("columns",)

    def __init__(self, values: Row, columns: Sequence[str]) -> None:
        super().__init__(values)
        self.columns = columns


def read_rows(
    dataset: str, *, split: str = "test", columns: Sequence[str] | None, header: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of `dataset`, reduced to those of `columns` that they have (None: all), one at a time.

    `split` matters only on the hub, where `owner/name:subset` names one of several subsets; `header` has the columns of
    a CSV file whose first line does not name them. Raises SpecError when there is not such a data set, when it is not
    reachable from here, and, naming the line, when a file is broken.
    """
    path = path_of(dataset)
    try:
        for row in _rows(dataset, path, split, columns, header):
            yield row if columns is None else pick(row, columns)
    except (EOFError, zlib.error) as error:
        raise SpecError(f"the data set {path} is not a whole gzip file: {error}") from None
    except FileNotFoundError:
        raise SpecError(f"there is no data set file {path} (relative to {Path.cwd()})") from None
    except OSError as error:
        raise SpecError(f"cannot read the data set {path}: {error.strerror or error}") from None


def pick(row: Row, columns: Sequence[str]) -> PickedRow:
    names = row.columns if isinstance(row, PickedRow) else tuple(row)
    return PickedRow({name: value for name, value in row.items() if name in columns}, names)


def identify(dataset: str, split: str) -> dict[str, Any]:
    """What changes when the rows do: a file's size and time, or the fingerprint of the hub's client."""
    path = path_of(dataset)
    if _is_file(path):
        try:
            found = path.stat()
        except OSError as error:
            raise SpecError(f"there is no data set file {path} ({error.strerror}; relative to {Path.cwd()})") from None
        return {"path": str(path.absolute()), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    return {"name": dataset, "split": split, "fingerprint": _load_from_hub(dataset, split)._fingerprint}


def path_of(dataset: str) -> Path:
    """Where a data set would be if its name were a path; of a file of the hub, where it is after the download."""
    if "\0" in dataset or not dataset.strip():
        raise SpecError(f"{dataset!r} is not a valid name of a data set")
    return _download(dataset, found) if (found := _HUB_FILE.fullmatch(dataset)) else expanded(dataset)


def _download(dataset: str, file: re.Match[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError  # also where there is no network

    name, revision = file["name"], file["revision"]
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                name, file["file"], repo_type="dataset", revision=revision, token=secrets.find("HF_TOKEN")
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        shown = name if "gated" in str(error).lower() else dataset
        seen = ConnectionError(str(error)) if isinstance(error, LocalEntryNotFoundError) else error
        raise SpecError(_hub_advice(shown, seen, huggingface_hub.constants.HF_HUB_OFFLINE)) from None


_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def _is_file(path: Path) -> bool:
    """Whether a data set's name means a file, and not one of the hub or a folder in its layout.

    Raises SpecError for a file of another format, and for what is not a regular file: reading a pipe might
    never end, and can be read only once.
    """
    known = format_of(path) in FORMATS
    try:
        mode = path.stat().st_mode
    except OSError:  # absent, or reported by whoever opens it
        return known
    if kind := _KINDS.get(stat.S_IFMT(mode)):
        raise SpecError(f"{path} is {kind}, not a regular file. Write the rows to a file and name that")
    if not known and stat.S_ISREG(mode):
        raise SpecError(f"{path} is not a data set that can be read; expected {', '.join(FORMATS)}")
    return known and not stat.S_ISDIR(mode)


def format_of(path: Path) -> str:
    """The ending that says how a file is read, in lower case: .csv of exam.CSV and of exam.csv.gz."""
    ending = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if ending == ".gz" and inner in LINED else ending


def _rows(dataset: str, path: Path, split: str, columns: Sequence[str] | None, header: Sequence[str]) -> Iterator[Row]:
    if not _is_file(path):
        return _hub_rows(dataset, split, columns)
    ending = format_of(path)
    if ending == ".parquet":
        return _parquet_rows(path, columns)
    return _json_rows(path) if ending == ".json" else _lined_rows(path, header)


def _lined_rows(path: Path, header: Sequence[str] = ()) -> Iterator[Row]:
    with path.open("rb") as raw:
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
        yield from rows_of_lines(file, path, header)


def rows_of_lines(file: IO[bytes], path: Path, header: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of an open CSV or JSONL file; `path` names it in messages and says by its ending which of the two."""
    if format_of(path) == ".csv":
        yield from _csv_rows(file, path, header)
    else:
        yield from _jsonl_rows(file, path)


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of rows, an object with the list under `rows` or `data`, or, by another suffix, JSON lines."""
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise SpecError(f"{path} has {size:,} bytes, too many for JSON, which is read as a whole; give it as .jsonl")
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:  # broken JSON, or not UTF-8
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            with path.open("rb") as file:
                yield from _jsonl_rows(file, path)
            return
        raise SpecError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise SpecError(f"{path} is not valid JSON: nested too deeply") from None
    del text
    if isinstance(content, dict):
        content = next((content[name] for name in ("rows", "data") if name in content), [content])
    if not isinstance(content, list):
        raise SpecError(f"{path} holds no list of rows; expected [{{…}}, …], or such a list under rows or data")
    for number, row in enumerate(content, start=1):
        yield _checked(row, f"{path}, row {number}")


def _jsonl_rows(file: IO[bytes], path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(file, path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SpecError(f"{path}, line {number} is not valid JSON: {error}") from None
        except RecursionError:
            raise SpecError(f"{path}, line {number} is not valid JSON: nested too deeply") from None
        yield _checked(row, f"{path}, line {number}")


def _lines(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of a file, none longer than LONGEST_LINE."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise SpecError(f"{path}, line {number} has more than {LONGEST_LINE:,} bytes; no row is that long")
        yield line


def _csv_rows(file: IO[bytes], path: Path, header: Sequence[str]) -> Iterator[Row]:
    """`header` has the columns where the first line does not name them all; that line is a row then."""
    csv.field_size_limit(LONGEST_LINE)  # the default, 128 KiB, is less than one image
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader, read = csv.reader(_lines(text, path), strict=True), 0  # lines
    try:
        names: Sequence[str] = next(reader, [])
        read = reader.line_num
        rows: Iterable[list[str]] = reader
        if names and not set(header) <= set(names):
            rows, names = chain([list(names)], reader), header
        for values in filter(None, rows):
            if len(values) != len(names):
                shown = ", ".join(name[:60] for name in names[:12])
                raise SpecError(
                    f"{path}, line {reader.line_num}: the row does not have the header's {len(names)} fields "
                    f"({' '.join(shown.split())})"
                )
            yield dict(zip(names, values, strict=True))
            read = reader.line_num
    except (csv.Error, UnicodeDecodeError) as error:
        raise SpecError(f"{path}, line {read + 1} is not valid CSV: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            present = [column for column in columns if column in names] if columns is not None else None
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=present):
                for row in batch.to_pylist():
                    yield row if columns is None else PickedRow(row, names)
    except (pa.ArrowException, ValueError, OverflowError) as error:  # also text that is not UTF-8, dates of year 10,000
        raise SpecError(f"{path} is not a valid Parquet file: {str(error).splitlines()[0]}") from None


def _hub_rows(name: str, split: str, columns: Sequence[str] | None) -> Iterator[Row]:
    data = _load_from_hub(name, split)
    if columns is None:
        return iter(data)
    # Columns that are not used may hold images, whose decoding takes longer than everything else.
    names = data.column_names
    picked = data.select_columns([column for column in columns if column in names])
    return (PickedRow(row, names) for row in picked)


def _load_from_hub(name: str, split: str) -> Any:
    import datasets  # seconds; only who reads from the hub pays for it

    repository, _, subset = name.partition(":")
    try:
        return datasets.load_dataset(repository, subset or None, split=split, token=secrets.find("HF_TOKEN"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SpecError(_hub_advice(name, error, datasets.config.HF_HUB_OFFLINE)) from None


def _hub_advice(name: str, error: Exception, offline: bool) -> str:
    """The message for each way in which the hub's client fails."""
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if "gated" in str(error).lower():
        return (
            f"the data set {name} is gated. Accept its terms at https://huggingface.co/datasets/{name}, then put "
            f"HF_TOKEN=… of that account into {secrets.secrets_file()} (mode 0600)"
        )
    if isinstance(error, ConnectionError) or (offline and "cache" in text):
        why = "HF_HUB_OFFLINE is set" if offline else "the hub is not reachable from here"
        return (
            f"the data set {name} is not in the local cache and {why}. Where there is internet, run the same command, "
            "or python -m jobs.prefetch with the job's arguments, then run it here with the same HF_HOME"
        )
    return f"cannot load the data set {name} ({text}). Expected a local file or a data set's name on huggingface.co"


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise SpecError(f"{where} is a {type(row).__name__}, expected an object")
    return row
