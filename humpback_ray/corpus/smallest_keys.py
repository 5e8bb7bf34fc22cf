"""The rows of a folder that have the smallest keys, out of any number of rows.

Tasks write one key for each row, a task finds the edge in a few passes over the keys, and tasks
read the rows again and divide them there. A task whose figures are on disk is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from humpback_ray import storage, tables
from humpback_ray.corpus.order_statistics import nth_smallest
from humpback_ray.corpus.steps import Figures, Tasks, run_once

ROWS_PER_TASK = 20_000  # about 40 MB of segments
_KEYS = "keys"


@dataclass(frozen=True)
class Division:
    """A folder's rows, divided by their keys.

    Args:
        source: folder of the rows.
        work: folder of the files between the steps; the caller deletes it.
        rows: folder for the rows with the smallest keys.
        dropped: folder for all others; None: they are not written.
        keys: the keys of a table's rows, uint64 (rows,), each of which depends on its row alone.
        finish: makes the rows that are written out of a table's rows, their keys, and True for kept
            ones.
    """

    source: str
    work: str
    rows: str
    dropped: str | None
    keys: Callable[[pa.Table], np.ndarray]
    finish: Callable[[pa.Table, np.ndarray, bool], pa.Table]

    def rank(self, number: int, files: Sequence[str]) -> Figures:
        """Write the keys of the rows in some files."""
        keys = self.keys(self._read(files))
        tables.write_table(self._keys, pa.table({"key": keys}), _name(number))
        return {"num_rows": len(keys)}

    def edge(self, num_parts: int, num_kept: int) -> Figures:
        """The key of the last row that is kept."""

        def keys() -> Iterator[np.ndarray]:
            return (self._keys_of(number)[:, None] for number in range(num_parts))

        return {"edge": int(nth_smallest(keys, num_kept - 1)[0])}

    def divide(self, number: int, files: Sequence[str], edge: int) -> Figures:
        """Write the rows in some files, under names that are the same in every attempt."""
        table, keys = self._read(files), self._keys_of(number)
        is_kept = keys <= np.uint64(edge)
        for folder, chosen, kept in ((self.rows, is_kept, True), (self.dropped, ~is_kept, False)):
            if folder is not None and chosen.any():
                part = self.finish(table.filter(pa.array(chosen)), keys[chosen], kept)
                tables.write_table(folder, part, _name(number))
        return {"num_kept": int(is_kept.sum())}

    @property
    def _keys(self) -> str:
        return storage.join(self.work, _KEYS)

    def _keys_of(self, number: int) -> np.ndarray:
        return tables.read_named(self._keys, _name(number))["key"].to_numpy()

    def _read(self, files: Sequence[str]) -> pa.Table:
        filesystem, _ = storage.arrow_filesystem(self.source)
        return pa.concat_tables(tables.read_file(filesystem, file) for file in files)


def divide(division: Division, num_kept: int, tasks: Tasks) -> int:
    """Write the `num_kept` rows with the smallest keys, and the others; returns how many were kept.

    It keeps more where rows behind the last one have its key too.
    """
    groups = list(tables.groups_of_files(division.source, ROWS_PER_TASK))

    def run(label: str, step: str, items: Sequence[tuple[object, ...]]) -> list[Figures]:
        return tasks(label, partial(run_once, division.work, division, step), items)

    run("parts ranked", "rank", list(enumerate(groups)))
    [found] = run("edge found", "edge", [(len(groups), num_kept)])
    items = [(number, files, found["edge"]) for number, files in enumerate(groups)]
    return sum(figures["num_kept"] for figures in run("parts divided", "divide", items))


def _name(number: int) -> str:
    return f"part-{number:06}"
