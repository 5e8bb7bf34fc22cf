"""Row types as Arrow schemas as Parquet folders.

One schema for each row type, derived once from its annotations. Reading and writing both use it, so
a batch of all nulls cannot change a column's type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq

from humpback_ray import storage

Row = TypeVar("Row")

_ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}


@cache
def arrow_schema(row_type: type) -> pa.Schema:
    """The Arrow schema of a row type: `X | None` is a nullable column, an enum is a string."""
    hints = typing.get_type_hints(row_type)
    return pa.schema([_arrow_field(f.name, hints[f.name]) for f in dataclasses.fields(row_type)])


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    nullable = False
    if isinstance(annotation, types.UnionType):
        (annotation,) = [a for a in annotation.__args__ if a is not types.NoneType]
        nullable = True
    if typing.get_origin(annotation) is list:
        return pa.field(name, pa.list_(_ARROW_TYPES[typing.get_args(annotation)[0]]), nullable)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return pa.field(name, pa.string(), nullable)
    return pa.field(name, _ARROW_TYPES[annotation], nullable)


def to_table(rows: Iterable[Any], row_type: type) -> pa.Table:
    """Rows, or mappings with a row type's fields, as a table of that type's schema."""
    schema = arrow_schema(row_type)
    records = [r if isinstance(r, Mapping) else as_dict(r) for r in rows]
    return pa.table({name: [r[name] for r in records] for name in schema.names}, schema=schema)


def as_dict(row: Any) -> dict[str, Any]:
    """A row's fields by name; unlike `dataclasses.asdict` it copies nothing."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def write_rows(folder: str, rows: Iterable[Any], row_type: type, name: str = "part-0") -> None:
    """Write a small table from the driver as one Parquet file in a folder."""
    filesystem, path = storage.arrow_filesystem(folder)
    filesystem.create_dir(path, recursive=True)
    # Written beside and moved: a kill leaves no half file among the rows.
    pq.write_table(to_table(rows, row_type), f"{path}/.{name}.partial", filesystem=filesystem)
    filesystem.move(f"{path}/.{name}.partial", f"{path}/{name}.parquet")


def read_table(folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a folder, or only some columns of them. No order is promised."""
    filesystem, path = storage.arrow_filesystem(folder)
    files = parquet_files(filesystem, path)
    return pads.dataset(files, filesystem=filesystem, format="parquet").to_table(columns=columns)


def parquet_files(filesystem: arrow_fs.FileSystem, path: str) -> list[str]:
    """The finished Parquet files of a folder, by name."""
    selector = arrow_fs.FileSelector(path, allow_not_found=True)
    return sorted(
        info.path
        for info in filesystem.get_file_info(selector)
        if info.path.endswith(".parquet") and not info.base_name.startswith(".")
    )


def read_rows(folder: str, row_type: type[Row]) -> list[Row]:
    """All rows of a small folder as objects, in the order of their first column."""
    hints = typing.get_type_hints(row_type)
    table = read_table(folder).select(list(hints))
    enums = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, StrEnum)
    }
    rows = sorted(table.to_pylist(), key=lambda row: row[table.column_names[0]])
    return [row_type(**{k: enums[k](v) if k in enums else v for k, v in r.items()}) for r in rows]


def num_rows(folder: str) -> int:
    """How many rows the finished files of a folder hold, read from their footers."""
    filesystem, path = storage.arrow_filesystem(folder)
    return sum(_num_rows_of(filesystem, file) for file in parquet_files(filesystem, path))


def _num_rows_of(filesystem: arrow_fs.FileSystem, file: str) -> int:
    try:
        return pq.read_metadata(file, filesystem=filesystem).num_rows
    except (pa.ArrowInvalid, FileNotFoundError):
        return 0  # being written, or just removed: without a footer it is no finished file


def ids(folder: str, column: str) -> set[str]:
    """The ids of a folder's rows, which must be unique."""
    values = read_table(folder, [column])[column]
    assert pc.count_distinct(values).as_py() == len(values), f"{column} is not unique in {folder}"
    return set(values.to_pylist())


def count_values(folder: str, column: str) -> Counter[str]:
    """How often each value of a column occurs, from the rows on disk."""
    counts = read_table(folder, [column])[column].value_counts().to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in counts})


def conform(table: pa.Table, row_type: type) -> pa.Table:
    """A table with exactly a row type's columns and types: what Ray Data writes goes through it."""
    return table.select(arrow_schema(row_type).names).cast(arrow_schema(row_type))
