"""Rows of a stage for the report: streamed, drawn by the hash of their ids, found by id.

`RowFolder` reads the ids once and remembers in which file each row is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from humpback_ray import tables

Hashes = NDArray[np.uint64]


def scan(folder: str, row_type: type, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a folder in batches; nothing from a folder without files.

    Args:
        row_type: of the rows.

    Raises:
        UserError: the rows are damaged, or another version of the program wrote them.
    """
    for _, batch in scan_files(folder, row_type, columns):
        yield batch


def scan_files(
    folder: str, row_type: type, columns: list[str], files: Collection[str] | None = None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of a folder, or of some of its files, in batches, each with the name of its file.

    Raises:
        UserError: as in `scan`.
    """
    with tables.damage_named(folder):
        for file, batch in tables.scan_ahead(folder, columns, files):
            tables.check_columns(batch, row_type, columns, folder)
            yield file, batch


def scan_rows(folder: str, row_type: type, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a small folder one by one, as tuples of some columns."""
    for batch in scan(folder, row_type, columns):
        yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


def hashes_of(texts: pa.Array) -> Hashes:
    """64 bits of each text, the same ones on every call: (texts,)."""
    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)


class Drawn:
    """The rows with the smallest hashes of those that come in batches: a random sample.

    The same ids give the same sample, in whatever order and files they come, and a smaller sample
    is the beginning of a larger one.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._hashes: list[Hashes] = []
        self._rows: list[pa.RecordBatch] = []
        self._worst: np.uint64 | None = None  # hash of the last row that is drawn so far

    def add(self, hashes: Hashes, batch: pa.RecordBatch) -> None:
        """Add rows with the hashes of their ids."""
        if self._worst is not None:
            is_better = hashes < self._worst
            if not is_better.any():
                return
            hashes, batch = hashes[is_better], batch.filter(pa.array(is_better))
        self._hashes.append(hashes)
        self._rows.append(batch)
        if sum(map(len, self._hashes)) > 2 * self._number:
            self._shrink()

    def _shrink(self) -> None:
        """Keep as many as are wanted, in the order of their hashes."""
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")[: self._number]
        rows = pa.Table.from_batches(self._rows).take(pa.array(order)).combine_chunks()
        self._hashes, self._rows = [hashes[order]], rows.to_batches()
        if len(order) == self._number:
            self._worst = hashes[order[-1]]

    def rows(self) -> list[dict[str, Any]]:
        """The drawn rows, in the order of their hashes."""
        self._shrink()
        return [row for batch in self._rows for row in batch.to_pylist()]


class RowFolder:
    """The rows of a folder by their ids: 12 bytes a row of memory, and a file read where it is.

    Args:
        row_type: of the rows; its first field is their id.
    """

    def __init__(self, folder: str, row_type: type) -> None:
        self.folder, self.row_type = folder, row_type
        self.id_column = fields(row_type)[0].name
        self._files: list[str] = []
        self._hashes: Hashes | None = None  # None before the first whole scan
        self._file_of: NDArray[np.uint32] = np.empty(0, np.uint32)

    def scan(self, columns: list[str]) -> Iterator[tuple[Hashes, pa.RecordBatch]]:
        """All rows in batches, with the hashes of their ids; the id's column comes along.

        Raises:
            UserError: as in the function `scan`.
        """
        files: dict[str, int] = {}
        found, places = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
        names = list(dict.fromkeys([self.id_column, *columns]))
        for file, batch in scan_files(self.folder, self.row_type, names):
            hashes = hashes_of(batch[self.id_column])
            found.append(hashes)
            places.append(np.full(len(hashes), files.setdefault(file, len(files)), np.uint32))
            yield hashes, batch
        self._files, self._file_of = list(files), np.concatenate(places)
        self._hashes = np.concatenate(found)

    @property
    def hashes(self) -> Hashes:
        """Hashes of all ids, (rows,), in the order of the files."""
        if self._hashes is None:
            for _ in self.scan([]):
                pass
        assert self._hashes is not None
        return self._hashes

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.hashes)

    def drawn(self, number: int, columns: list[str]) -> list[dict[str, Any]]:
        """Rows with the smallest hashes of their ids, as `Drawn` draws them."""
        hashes = self.hashes
        if len(hashes) > number:
            hashes = np.partition(hashes, number - 1)[:number]
        return self.with_hashes(np.sort(hashes), columns)[:number]

    def with_ids(self, ids: Collection[str], columns: list[str]) -> list[dict[str, Any]]:
        """The rows with these ids, in their order."""
        rows = self.with_hashes(hashes_of(pa.array(list(ids), pa.string())), columns)
        return [row for row in rows if row[self.id_column] in ids]

    def with_hashes(self, wanted: Hashes, columns: list[str]) -> list[dict[str, Any]]:
        """The rows whose ids have these hashes, in their order."""
        is_wanted = np.isin(self.hashes, wanted)
        places = self._file_of[is_wanted]
        files = [self._files[place] for place in np.unique(places)]
        names = list(dict.fromkeys([self.id_column, *columns]))
        found: list[dict[str, Any]] = []
        for _, batch in scan_files(self.folder, self.row_type, names, files):
            hashes = hashes_of(batch[self.id_column])
            found += batch.filter(pa.array(np.isin(hashes, wanted))).to_pylist()
        order = {int(value): place for place, value in enumerate(wanted)}
        hashes = hashes_of(pa.array([row[self.id_column] for row in found], pa.string()))
        keys = [order[int(value)] for value in hashes]
        return [row for _, row in sorted(zip(keys, found, strict=True), key=lambda pair: pair[0])]


def where(batch: pa.RecordBatch, column: str, value: str) -> NDArray[np.bool_]:
    """The rows whose column has a value: (rows,)."""
    return pc.equal(batch[column], value).to_numpy(zero_copy_only=False)
