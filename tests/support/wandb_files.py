"""Reads what wandb writes where it is offline: a header of 7 bytes, then LevelDB's log of records in pieces."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes


def records(file: Path) -> Iterator[Any]:
    """wandb's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # too little for the head of a piece
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            yield Record.FromString(record)
            record = b""


def history(file: Path, metric: str) -> dict[int, float]:
    """`metric` by step."""
    found = {}
    for record in records(file):
        items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        if metric in items:
            found[record.history.step.num] = json.loads(items[metric])
    return found
