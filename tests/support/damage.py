"""Damage to the files of a run: values, lines and whole files that are not as they were written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Place = tuple[str | int, ...]  # keys and indices from the top of a JSON file

GONE = object()
VALUES: dict[str, Any] = {
    "null": None, "word": "many", "NaN": math.nan, "infinity": math.inf, "list": [], "map": {},
    "gone": GONE,
}  # fmt: skip
FILES: dict[str, Any] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "null": lambda content: b"null",
    "list": lambda content: b"[]",
    "no text": lambda content: b"\xff\xfe\x00" + content,
}


def places(content: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every value, of a list those in its first entry."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from places(value, (*place, name))
    elif isinstance(content, list) and content:
        yield from places(content[0], (*place, 0))
    if place:
        yield place


def value_at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def put(file: Path, place: Place, value: Any) -> None:
    """Write another value into a JSON file."""
    content = json.loads(file.read_text())
    parent = value_at(content, place[:-1])
    if value is GONE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    file.write_text(json.dumps(content))


def spoil(file: Path, how: str) -> None:
    """Write other bytes in place of a whole file."""
    file.write_bytes(FILES[how](file.read_bytes()))


def _with_nulls(table: pa.Table, name: str) -> pa.Table:
    column = table[name].to_pylist()
    return _replaced(table, name, pa.array([None, *column[1:]], table[name].type))


def _with_type(table: pa.Table, name: str) -> pa.Table:
    kind = pa.int64() if table[name].type == pa.string() else pa.string()
    return _replaced(table, name, pa.array([7 if kind == pa.int64() else "many"] * len(table)))


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def spoil_rows(folder: Path, how: str, column: str) -> None:
    """Damage the file of a folder as `spoil` does, or its `middle`, or `null`, `type`, `column`."""
    (file,) = folder.glob("*.parquet")
    if how in ("empty", "half", "no text"):
        spoil(file, how)
    elif how == "middle":
        content = np.frombuffer(file.read_bytes(), np.uint8).copy()
        content[4 : len(content) // 2] ^= 0xA5
        file.write_bytes(content.tobytes())
    else:
        table = pq.read_table(file)
        change = {"null": _with_nulls, "type": _with_type,
                  "column": lambda table, name: table.drop_columns([name])}[how]  # fmt: skip
        pq.write_table(change(table, column), file)
