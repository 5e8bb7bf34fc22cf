"""Rows of a stage for the report: streamed, drawn by the hash of their ids, found by id."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.errors import UserError


def scan(folder: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a folder in batches; nothing from a folder without files.

    Raises:
        UserError: the rows lack a column, or a file is no Parquet.
    """
    try:
        for batch in tables.scan(folder, columns):
            if lacking := [name for name in columns if name not in batch.schema.names]:
                raise UserError(
                    f"the rows in {folder} have no column {', '.join(lacking)}: another version "
                    "of this program wrote them"
                )
            yield batch
    except pa.ArrowInvalid as error:
        raise UserError(f"a file in {folder} is no Parquet: {storage.one_line(error)}") from error


def scan_rows(folder: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a folder one by one, as tuples of some columns."""
    for batch in scan(folder, columns):
        yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


def drawn_ids(ids: Iterator[str], number: int) -> list[str]:
    """The ids with the smallest hashes: a random sample, and the same one on every call."""
    hashed = ((hashlib.sha256(name.encode(errors="replace")).digest(), name) for name in ids)
    return [name for _, name in heapq.nsmallest(number, hashed)]


def ids_of(folder: str, column: str) -> Iterator[str]:
    """One string column of all rows."""
    return (name for (name,) in scan_rows(folder, [column]))


def rows_with(
    folder: str, column: str, values: Collection[str], columns: list[str]
) -> list[dict[str, Any]]:
    """The rows whose `column` has one of the values, in the order of the values."""
    wanted = pa.array(list(values), pa.string())
    found: list[dict[str, Any]] = []
    for batch in scan(folder, list(dict.fromkeys([column, *columns]))):
        found += batch.filter(pc.is_in(batch[column], value_set=wanted)).to_pylist()
    places = {value: place for place, value in enumerate(values)}
    return sorted(found, key=lambda row: places[row[column]])
