"""The search for duplicates as a part of a stage: its rows, its tasks, its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.duplicates import NearDuplicateSettings
from humpback_ray.corpus.duplicate_steps import Columns, Search
from humpback_ray.corpus.near_duplicates import Found, find_duplicates
from humpback_ray.corpus.steps import Tasks
from humpback_ray.execution.stage import Context
from humpback_ray.execution.tasks import run_tasks

WORK = "_duplicates"  # folder of the files between the steps
FILES_PER_COUNT = 64

Piece = tuple[str, int, int]  # a file, its first row group, and the one after its last


@dataclass(frozen=True)
class Searched:
    """The rows of a folder, of which those with a value in one column are searched.

    Args:
        prepare: adds what the search reads to the rows that are searched.
        settle: adds an `outcome` to the rows that are not, and counts what a stage wants counted.
    """

    source: str
    column: str
    value: str
    row_type: type
    dropped_type: type
    columns: Columns
    prepare: Callable[[pa.Table], pa.Table]
    settle: Callable[[pa.Table], tuple[pa.Table, Counter[str]]]

    def read(self, pieces: Sequence[Piece]) -> tuple[pa.Table, pa.Table, Counter[str]]:
        """The rows of some pieces: those to search, the others, and counts."""
        filesystem, _ = storage.arrow_filesystem(self.source)
        table = pa.concat_tables(tables.read_row_groups(filesystem, *piece) for piece in pieces)
        is_searched = pc.equal(table[self.column], self.value)
        return (
            self.prepare(table.filter(is_searched)),
            *self.settle(table.filter(pc.invert(is_searched))),
        )

    def groups(self, num_rows: int, tasks: Tasks) -> list[tuple[list[Piece], int]]:
        """Pieces of together about `num_rows` rows, with the number of those to search."""
        filesystem, path = storage.arrow_filesystem(self.source)
        files = tables.parquet_files(filesystem, path)
        some = [files[i : i + FILES_PER_COUNT] for i in range(0, len(files), FILES_PER_COUNT)]
        found = tasks("files counted", self.groups_of, [(each, num_rows) for each in some])
        return list(chain.from_iterable(found))

    def groups_of(self, files: Sequence[str], num_rows: int) -> list[tuple[list[Piece], int]]:
        """The groups of some files; no group goes beyond them."""
        filesystem, _ = storage.arrow_filesystem(self.source)
        groups: list[tuple[list[Piece], int]] = []
        pieces: list[Piece] = []
        num_read = num_searched = 0
        for file in files:
            first = end = 0
            for rows in tables.scan_row_groups(filesystem, file, [self.column]):
                end += 1
                num_read += len(rows)
                num_searched += pc.sum(pc.equal(rows[self.column], self.value)).as_py() or 0
                if num_read >= num_rows:
                    groups.append(([*pieces, (file, first, end)], num_searched))
                    pieces, first, num_read, num_searched = [], end, 0, 0
            if first < end or not end:  # a file without rows has columns
                pieces.append((file, first, end))
        return [*groups, (pieces, num_searched)] if pieces else groups


def drop_duplicates(
    context: Context,
    searched: Searched,
    settings: NearDuplicateSettings,
    max_rows: int | None = None,
) -> Found:
    """Write a stage's `rows` and `dropped`; a search that was killed goes on where it was."""
    rows_per_task = context.placement.corpus.rows_per_task
    rows, dropped = context.path("rows"), context.path("dropped")
    # Another number of rows gives files of other names, so a search under it begins anew.
    work = context.path(WORK, f"{rows_per_task}-rows")
    if not storage.exists(work):
        storage.delete(rows)
        storage.delete(dropped)
    tasks = partial(run_tasks, context.progress)
    groups = searched.groups(rows_per_task, tasks)
    num_searched = sum(number for _, number in groups)
    search = Search(
        work, rows, dropped, searched.row_type, searched.dropped_type, searched.columns, settings,
        searched.read, len(groups), max(1, -(-num_searched // rows_per_task)),
    )  # fmt: skip
    sources = [pieces for pieces, _ in groups]
    found = find_duplicates(search, sources, tasks, max_rows)
    for folder, row_type in ((rows, searched.row_type), (dropped, searched.dropped_type)):
        if not tables.num_rows(folder):
            tables.write_rows(folder, [], row_type)  # readers expect at least one file
    for line in found.alarms:
        context.progress.note(line)
    return found


def duplicate_figures(found: Found) -> dict[str, Any]:
    """Figures of a search for a stage's record."""
    return {
        "num_compared_pairs": found.num_pairs,
        "num_near_pairs": found.num_near,
        "largest_cluster": found.clusters[0][1] + 1 if found.clusters else 1,
        "duplicate_alarms": found.alarms,
    }
