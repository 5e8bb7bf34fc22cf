"""Rows between two steps of tasks: a file for each writer, and in it a batch for each reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from humpback_ray import storage
from humpback_ray.errors import UserError


def write_parts(url: str, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """Write the rows for each reader as one Arrow file, atomically; no part may be left out."""
    content = pa.BufferOutputStream()
    options = ipc.IpcWriteOptions(compression="lz4")
    with ipc.new_file(content, schema, options=options) as writer:
        for part in parts:
            batches = part.combine_chunks().to_batches()
            if len(batches) > 1:  # Arrow's strings hold 2 GiB
                raise UserError(
                    f"the texts of {len(part)} rows have {part.nbytes} bytes, and a task can hand "
                    "on 2 GiB at a time: lower placement.corpus.rows_per_task"
                )
            writer.write_batch(batches[0] if batches else _no_rows(schema))
    storage.write_bytes(url, content.getvalue().to_pybytes())


def read_part(url: str, number: int = 0, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that a file holds for reader `number`, or some of their columns."""
    filesystem, path = storage.arrow_filesystem(url)
    with filesystem.open_input_file(path) as source:
        file = ipc.open_file(source)
        if columns is not None:
            places = sorted(file.schema.get_field_index(name) for name in columns)
            options = ipc.IpcReadOptions(included_fields=places)
            file = ipc.open_file(source, options=options)
        return pa.Table.from_batches([file.get_batch(number)])


def split(table: pa.Table, readers: np.ndarray, num_readers: int) -> Iterator[pa.Table]:
    """A table's rows for each reader in turn, in the order in which they stand.

    Args:
        readers: (rows,), the number of each row's reader.
    """
    if num_readers == 1:
        yield table
        return
    order = np.argsort(readers, kind="stable")
    table = table.take(order)
    ends = np.searchsorted(readers[order], np.arange(num_readers + 1))
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        yield table.slice(start, end - start)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
