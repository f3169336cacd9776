"""Rows out of local files of every format, and what a user hears when there are none."""

import csv
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.source import PickedRow, identify, read_rows
from orchestrator.errors import SpecError

COLUMNS = ("id", "question", "image")
ROWS = [
    {"id": "a", "question": '東京 \u2028 is, what?\n"', "image": ""},
    {"id": "b", "question": "x", "image": "y" * 300_000},
]


def with_extra() -> list[dict[str, Any]]:
    return [row | {"rationale": "long"} for row in ROWS]


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in with_extra()), encoding="utf-8-sig")


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(with_extra()[0]))
        writer.writeheader()
        writer.writerows(with_extra())


WRITERS: dict[str, Callable[[Path], object]] = {
    "list.json": lambda path: path.write_text(json.dumps(with_extra())),
    "rows.json": lambda path: path.write_text(json.dumps({"rows": with_extra()})),
    "data.json": lambda path: path.write_text(json.dumps({"version": 1, "data": with_extra()})),
    "lines.json": write_jsonl,
    "lines.JSONL": write_jsonl,
    "table.csv": write_csv,
    "table.parquet": lambda path: pq.write_table(pa.Table.from_pylist(with_extra()), path),
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_formats(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(read_rows(str(tmp_path / name), columns=(*COLUMNS, "absent"))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.jsonl", b'{"id": 1}\n{"id": \n', "line 2 is not valid JSON"),
        ("x.jsonl", b'{"id": "\xff"}\n', "line 1 is not valid JSON"),
        ("x.jsonl", b'{"id": 1}\n[1]\n', "line 2 is a list, expected an object"),
        ("x.json", b"[{]", "is not valid JSON"),
        ("x.json", b"5", "holds no list of rows"),
        ("x.json", b'{"rows": 5}', "holds no list of rows"),
        ("x.json", b'[{"id": 1}, 5]', "row 2 is a int"),
        ("x.json", b'{"id": 1}\n{"id"\n', "line 2 is not valid JSON"),
        ("x.json", b"", "is not valid JSON"),
        ("x.csv", b"id,question\n1,a\n2\n", "line 3: the row does not have the header's 2 fields"),
        ("x.csv", b"id,question\n1,a,b\n", "line 2: the row does not have the header's 2 fields"),
        ("x.csv", b'id,question\n1,"a"b\n', "line 2 is not valid CSV"),
        ("x.csv", b"id,question\n1,\xff\n", "is not valid CSV"),
        ("x.parquet", b"no parquet", "is not a valid Parquet file"),
        ("x.txt", b"", "expected .json, .jsonl, .csv, .parquet"),
        ("x.json", b"[" * 100_000, "is not valid JSON: nested too deeply"),
        ("x.jsonl", b'{"a":' * 100_000, "line 1 is not valid JSON: nested too deeply"),
        ("x.json", b'{"id": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        ("x.csv", b"id;question\n1;a, b\n", "line 2: the row does not have the header's 1 fields (id;question)"),
        ("x.csv", "id,question\n1,a\n".encode("utf-16"), "is not valid CSV"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError) as caught:
        list(read_rows(str(tmp_path / name), columns=COLUMNS))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.parquet", "x"])
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
def test_what_is_no_regular_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path = Path(f"{tempfile.mkdtemp()}/{name}")  # a socket's path must be short
        socket.socket(socket.AF_UNIX).bind(str(path))
    for read in (lambda: list(read_rows(str(path), columns=COLUMNS)), lambda: identify(str(path), "test")):
        with pytest.raises(SpecError, match=f"{name} is {kind}, not a regular file"):
            read()


@pytest.mark.parametrize("name", ["/dev/zero", "~nobody-of-that-name/x.jsonl", "a\0b.jsonl", "x" * 5000 + ".jsonl"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(SpecError):
        list(read_rows(name, columns=COLUMNS))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_hostile_size_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    """Ten terabytes of zeros that take no place on the disk, read with 1 GiB to spare."""
    path = tmp_path / f"x.{suffix}"
    with path.open("wb") as file:
        file.truncate(10 * 2**40)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
    command = [sys.executable, "-c", limit + READ.format(str(path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "too many for JSON" in done.stdout or "no row is that long" in done.stdout


@pytest.mark.parametrize("name", list(WRITERS))
def test_rows_know_the_columns_that_were_left_out(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    row = next(read_rows(str(tmp_path / name), columns=["id"]))
    assert isinstance(row, PickedRow) and list(row.columns) == ["id", "question", "image", "rationale"]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_missing_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SpecError, match=f"no data set file .*none.{suffix}"):
        next(read_rows(str(tmp_path / f"none.{suffix}"), columns=COLUMNS))


def test_many_lines_are_read_quickly(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "question": "q" * 100, "x": [i]}) + "\n" for i in range(100_000)))
    start = time.perf_counter()
    assert sum(1 for _ in read_rows(str(path), columns=COLUMNS)) == 100_000
    assert time.perf_counter() - start < 5


READ = "from orchestrator.data.source import read_rows\nfrom orchestrator.errors import SpecError\n"
READ += "try: print(list(read_rows({!r}, split='test', columns=['id', 'question'])))\nexcept SpecError as e: print(e)"


def read_elsewhere(home: Path, name: str, **environment: str) -> str:
    """Read in a process of its own: the hub's client takes its settings from the environment when it is imported."""
    environment = os.environ | {"HF_HOME": str(home), "KOSEN_HOME": str(home / ".kosen")} | environment
    command = [sys.executable, "-c", READ.format(name)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_hub_offline_without_a_cache(tmp_path: Path) -> None:
    said = read_elsewhere(tmp_path, "cais/hle", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in said and "cais/hle" in said and "python -m jobs.prefetch" in said


class GatedHub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a data set whose terms were not accepted."""

    tokens: list[str | None]

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_gated_set_on_the_hub(tmp_path: Path) -> None:
    GatedHub.tokens = []
    (tmp_path / ".kosen").mkdir()
    (tmp_path / ".kosen/secrets.env").write_text("HF_TOKEN=hf_secret\n")
    (tmp_path / ".kosen/secrets.env").chmod(0o600)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), GatedHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        said = read_elsewhere(tmp_path, "cais/hle", HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_TOKEN="")
        server.shutdown()
    assert "is gated" in said and "huggingface.co/datasets/cais/hle" in said and "HF_TOKEN=" in said
    assert "Bearer hf_secret" in GatedHub.tokens and "hf_secret" not in said


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = tmp_path / "exam"
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist([{"id": "a", "question": "1?", "rationale": "r"}])
    pq.write_table(table, folder / "data/test-00000-of-00001.parquet")
    assert read_elsewhere(tmp_path, str(folder), HF_HUB_OFFLINE="1").strip() == "[{'id': 'a', 'question': '1?'}]"
