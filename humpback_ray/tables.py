"""Row types as Arrow schemas and Parquet folders.

Each row type has one schema, derived from its annotations. Reading and writing both use it, so a
batch of nulls cannot change a column's type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq

from humpback_ray import storage
from humpback_ray.errors import UserError

Row = TypeVar("Row")

# Small files are read whole and so many ahead; a larger one in batches when its turn comes.
FILES_AHEAD = 3
MAX_BYTES_AHEAD = 16 * 2**20

_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


@cache
def arrow_schema(row_type: type) -> pa.Schema:
    """The Arrow schema of a row type: `X | None` is a nullable column, an enum a string column."""
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
    """Rows, or mappings with a row type's fields, as a table with that type's schema."""
    schema = arrow_schema(row_type)
    records = [r if isinstance(r, Mapping) else as_dict(r) for r in rows]
    return pa.table({name: [r[name] for r in records] for name in schema.names}, schema=schema)


def as_dict(row: Any) -> dict[str, Any]:
    """A row's fields by name; unlike `dataclasses.asdict` it copies nothing."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def write_rows(folder: str, rows: Iterable[Any], row_type: type, name: str = "part-0") -> None:
    """Write a small table from the driver as one Parquet file in a folder."""
    write_table(folder, to_table(rows, row_type), name)


def write_table(folder: str, table: pa.Table, name: str) -> None:
    """Write one Parquet file into a folder, atomically."""
    # In memory first, because a client that is interrupted while it writes may close the file and
    # so save half of it.
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    storage.write_bytes(storage.join(folder, f"{name}.parquet"), content.getvalue().to_pybytes())


class GrowingFile:
    """A Parquet file that grows in memory by row groups, as Parquet compresses them.

    Args:
        folder: into which `close` writes it, atomically.
        least_rows: of a row group, but for the last one.
    """

    def __init__(self, folder: str, name: str, row_type: type, least_rows: int = 1) -> None:
        self._url = storage.join(folder, f"{name}.parquet")
        self._content = pa.BufferOutputStream()
        self._schema, self._least_rows = arrow_schema(row_type), least_rows
        self._writer = pq.ParquetWriter(self._content, self._schema)
        self._waiting: list[pa.Table] = []

    @property
    def num_bytes(self) -> int:
        """Size of the row groups so far."""
        return int(self._content.tell())

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= self._least_rows:
            self._write()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._waiting = []

    def close(self) -> None:
        """Write the file."""
        if self._waiting:
            self._write()
        self._writer.close()
        storage.write_bytes(self._url, self._content.getvalue().to_pybytes())


def read_table(folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a folder, or some of their columns, in no particular order."""
    filesystem, path = storage.arrow_filesystem(folder)
    files = parquet_files(filesystem, path)
    return pads.dataset(files, filesystem=filesystem, format="parquet").to_table(columns=columns)


def parquet_files(filesystem: arrow_fs.FileSystem, path: str) -> list[str]:
    """The finished Parquet files of a folder, sorted; empty if the folder does not exist."""
    if isinstance(filesystem, arrow_fs.PyFileSystem):
        # Arrow would call fsspec's `find`, which takes a failed listing for an empty folder.
        try:
            files = filesystem.handler.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
    else:
        selector = arrow_fs.FileSelector(path, allow_not_found=True)
        files = [info.path for info in filesystem.get_file_info(selector)]
    finished = [file for file in files if file.endswith(".parquet")]
    return sorted(file for file in finished if not file.rpartition("/")[2].startswith("."))


def read_rows(folder: str, row_type: type[Row]) -> list[Row]:
    """All rows of a small folder as objects, sorted by their first column.

    Raises:
        UserError: the rows are damaged, or another version of the program wrote them.
    """
    hints = typing.get_type_hints(row_type)
    with damage_named(folder):
        table = read_table(folder)
        for batch in table.to_batches():
            check_columns(batch, row_type, list(hints), folder)
        records = table.select(list(hints)).to_pylist() if table.num_rows else []
    enums = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, StrEnum)
    }
    rows = sorted(records, key=lambda row: row[table.column_names[0]])
    try:
        return [
            row_type(**{k: enums[k](v) if k in enums else v for k, v in r.items()}) for r in rows
        ]
    except ValueError as error:
        raise UserError(_other_rows(folder, str(error))) from error


@contextmanager
def damage_named(folder: str) -> Iterator[None]:
    """Turn Arrow's error about a damaged file inside the block into a UserError."""
    try:
        yield
    except pa.ArrowException as error:
        raise UserError(f"a file in {folder} is no Parquet: {storage.one_line(error)}") from error
    except OSError as error:
        if error.errno is not None:  # the store fails, and not the file's content
            raise
        raise UserError(f"a file in {folder} is damaged: {storage.one_line(error)}") from error


def check_columns(
    batch: pa.RecordBatch, row_type: type, columns: Iterable[str], folder: str
) -> None:
    """Check that some columns of rows are those of a row type.

    Raises:
        UserError: a column is missing, has another type, nulls where the row type has none, or
            numbers that are not finite.
    """
    schema = arrow_schema(row_type)
    for name in columns:
        if name not in batch.schema.names:
            raise UserError(_other_rows(folder, f"they have no column {name}"))
        column, wanted = batch[name], schema.field(name)
        if column.type != wanted.type:
            raise UserError(_other_rows(folder, f"{name} is {column.type}, not {wanted.type}"))
        if column.null_count and not wanted.nullable:
            raise UserError(_other_rows(folder, f"{name} has {column.null_count:,} nulls"))
        if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
            raise UserError(_other_rows(folder, f"{name} has numbers that are not finite"))


def _other_rows(folder: str, what: str) -> str:
    return f"the rows in {folder} are damaged or of another version of this program: {what}"


def read_file(filesystem: arrow_fs.FileSystem, file: str) -> pa.Table:
    """All rows of one file."""
    return pq.read_table(file, filesystem=filesystem)


def read_named(folder: str, name: str) -> pa.Table:
    """All rows of a file that `write_table` has written."""
    return read_file(*path_of_named(folder, name))


def scan_row_groups(
    filesystem: arrow_fs.FileSystem, file: str, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The row groups of one file."""
    with filesystem.open_input_file(file) as source:
        parquet = pq.ParquetFile(source)
        for number in range(parquet.num_row_groups):
            yield parquet.read_row_group(number, columns)


def read_row_groups(filesystem: arrow_fs.FileSystem, file: str, first: int, end: int) -> pa.Table:
    """Some row groups of one file, from `first` up to `end` without it."""
    with filesystem.open_input_file(file) as source:
        return pq.ParquetFile(source).read_row_groups(range(first, end))


def path_of_named(folder: str, name: str) -> tuple[arrow_fs.FileSystem, str]:
    """A file that `write_table` or `GrowingFile` has written, on its filesystem."""
    return storage.arrow_filesystem(storage.join(folder, f"{name}.parquet"))


def read_column(filesystem: arrow_fs.FileSystem, file: str, column: str) -> pa.Array:
    """One column of one file."""
    return pq.read_table(file, columns=[column], filesystem=filesystem)[column].combine_chunks()


def scan(folder: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a folder in record batches, so that memory holds only a few rows at a time."""
    filesystem, path = storage.arrow_filesystem(folder)
    # File by file, because a dataset keeps every file's footer: 120 MiB for 2,000 files.
    for file in parquet_files(filesystem, path):
        with filesystem.open_input_file(file) as source:
            yield from pq.ParquetFile(source).iter_batches(columns=columns)


def scan_ahead(
    folder: str, columns: list[str] | None = None, files: Iterable[str] | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of a folder in record batches, each with its file, in the order of the files.

    Threads read the next files meanwhile, which halves the time for thousands of small ones.

    Args:
        files: those of the folder that are read, as an earlier scan has named them; None: all.
    """
    filesystem, path = storage.arrow_filesystem(folder)

    def read(file: str) -> Iterable[pa.RecordBatch]:
        with filesystem.open_input_file(file) as source:
            if source.size() <= MAX_BYTES_AHEAD:
                return pq.ParquetFile(source).read(columns, use_threads=False).to_batches()
        return _batches(filesystem, file, columns)

    with ThreadPoolExecutor(FILES_AHEAD) as pool:
        reading: deque[tuple[str, Future[Iterable[pa.RecordBatch]]]] = deque()
        for file in parquet_files(filesystem, path) if files is None else files:
            reading.append((file, pool.submit(read, file)))
            if len(reading) > FILES_AHEAD:
                yield from _finished(*reading.popleft())
        while reading:
            yield from _finished(*reading.popleft())


def _batches(
    filesystem: arrow_fs.FileSystem, file: str, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_file(file) as source:
        yield from pq.ParquetFile(source).iter_batches(columns=columns)


def _finished(
    file: str, read: Future[Iterable[pa.RecordBatch]]
) -> Iterator[tuple[str, pa.RecordBatch]]:
    yield from ((file, batch) for batch in read.result())


def num_rows(folder: str) -> int:
    """Number of rows in a folder, read from its files' footers."""
    filesystem, path = storage.arrow_filesystem(folder)
    return sum(num_rows_of(filesystem, file) for file in parquet_files(filesystem, path))


def num_rows_of(filesystem: arrow_fs.FileSystem, file: str) -> int:
    """Number of rows in a file, read from its footer."""
    return int(pq.read_metadata(file, filesystem=filesystem).num_rows)


def groups_of_files(folder: str, num_rows: int) -> Iterator[list[str]]:
    """The files of a folder in order, in groups that end once they have so many rows."""
    filesystem, path = storage.arrow_filesystem(folder)
    group: list[str] = []
    num_in_group = 0
    for file in parquet_files(filesystem, path):
        if num_in_group >= num_rows:
            yield group
            group, num_in_group = [], 0
        group.append(file)
        num_in_group += num_rows_of(filesystem, file)
    if group:
        yield group


def id_column(folder: str, column: str) -> pa.Array:
    """One string column of all rows, repetitions included."""
    batches = [batch[column] for batch in scan(folder, [column])]
    return pa.concat_arrays(batches) if batches else pa.array([], pa.string())


def assert_unique(folder: str, column: str) -> int:
    """Assert that no value of an id column repeats; returns the number of rows."""
    ids = id_column(folder, column)
    assert pc.count_distinct(ids).as_py() == len(ids), f"{column} is not unique in {folder}"
    return len(ids)


TOKEN_COLUMNS = ["num_prompt_tokens", "num_cached_tokens", "num_generated_tokens"]


def token_figures(folder: str) -> dict[str, float]:
    """Totals of the token columns of generated rows, and the share from the prefix cache."""
    totals: dict[str, float] = dict.fromkeys(TOKEN_COLUMNS, 0)
    for batch in scan(folder, TOKEN_COLUMNS):
        for name in TOKEN_COLUMNS:
            totals[name] += pc.sum(batch[name]).as_py() or 0
    num_prompt = totals["num_prompt_tokens"]
    share = totals.pop("num_cached_tokens") / num_prompt if num_prompt else 0.0
    return totals | {"prefix_cache_share": round(share, 4)}


def count_values(folder: str, column: str) -> Counter[str]:
    """The number of rows with each value of a column, counted on disk."""
    counts: Counter[str] = Counter()
    for batch in scan(folder, [column]):
        entries = batch[column].value_counts().to_pylist()
        counts.update({entry["values"]: entry["counts"] for entry in entries})
    return counts


def conform(table: pa.Table, row_type: type) -> pa.Table:
    """A table with exactly a row type's columns and types, as Ray Data must write it."""
    return table.select(arrow_schema(row_type).names).cast(arrow_schema(row_type))


def with_nulls(table: pa.Table, row_type: type) -> pa.Table:
    """A table with nulls in those nullable columns of a row type that it does not have."""
    for field in arrow_schema(row_type):
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table
