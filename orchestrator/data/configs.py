"""Rows of a data set that consists of several configs: subsets on the hub, files of a folder or of a ZIP archive."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.data.source import FORMATS, LINED, Row, format_of, path_of, pick, read_rows, rows_of_lines
from orchestrator.errors import SpecError

CONFIG = "config"  # the column that says which config a row is of
_COMPRESSED = tuple(f"{ending}.gz" for ending in LINED)


def read_configs(
    dataset: str,
    configs: Sequence[str],
    *,
    split: str = "test",
    columns: Sequence[str] | None,
    header: Sequence[str] = (),
) -> Iterator[Row]:
    """The rows of all `configs` in their order, each with a column `config` beside `columns`; without any, `read_rows`.

    On the hub every config must be there, and `owner/name:config` reads one of them; where `dataset` is one of the
    configs, each is a data set of its own, and any other data set is read alone. A folder or a ZIP archive has a
    file for each, `abstract_algebra.csv`, alone or below a folder with the split's name; those that it lacks are left
    out. A single file says in its own columns what its rows are of. Raises SpecError as `read_rows` does.
    """
    path = path_of(dataset)
    apart = bool(configs) and "/" in configs[0]
    if not configs or format_of(path) in FORMATS or (apart and dataset not in configs):
        yield from read_rows(dataset, split=split, columns=columns, header=header)
    elif path.suffix.lower() == ".zip":
        yield from _archive_rows(path, configs, split, columns, header)
    elif files := _files(path, configs, split):
        for config, file in files.items():
            yield from _named(config, read_rows(str(file), columns=columns, header=header))
    elif ":" in dataset:
        yield from _named(dataset.partition(":")[2], read_rows(dataset, split=split, columns=columns))
    else:
        for config in configs:
            name = config if apart else f"{dataset}:{config}"
            yield from _named(config, read_rows(name, split=split, columns=columns))


def _named(config: str, rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        row[CONFIG] = config
        yield row


def _files(folder: Path, configs: Sequence[str], split: str) -> dict[str, Path]:
    """The file of each config that the folder has."""
    found: dict[str, Path] = {}
    for config in configs:
        names = [f"{config}{ending}" for ending in (*FORMATS, *_COMPRESSED)]
        files = [file for part in (folder / split, folder) for name in names if (file := part / name).is_file()]
        if files:
            found[config] = files[0]
    return found


def _archive_rows(
    path: Path, configs: Sequence[str], split: str, columns: Sequence[str] | None, header: Sequence[str]
) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, configs, split)
            if not members:
                raise SpecError(f"{path} has none of the files {configs[0]}.csv, … that the task reads")
            for config, member in members.items():
                with archive.open(member) as file:
                    rows = rows_of_lines(file, path / member, header)
                    yield from _named(config, (row if columns is None else pick(row, columns) for row in rows))
    except FileNotFoundError:
        raise SpecError(f"there is no data set file {path} (relative to {Path.cwd()})") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:  # broken, or encrypted
        raise SpecError(f"cannot read the data set {path}: {error}") from None


def _members(archive: zipfile.ZipFile, configs: Sequence[str], split: str) -> dict[str, str]:
    """The file of each config: below a folder with the split's name, else anywhere."""
    files = [Path(name) for name in archive.namelist() if Path(name).suffix.lower() in LINED]
    found = {file.stem: file for file in files} | {file.stem: file for file in files if file.parent.name == split}
    return {config: str(found[config]) for config in configs if config in found}
