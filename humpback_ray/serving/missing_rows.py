"""Rows of a source folder that have no answer in the target yet: a generating stage's checkpoint.

A *shard* is one Parquet file of the source. Every file of answers holds rows of one shard and its
name begins with the shard's key, so each check compares one source file with its answers. No
process holds more ids than one shard has, and the driver holds file names alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from humpback_ray import storage, tables

SHARD = "_shard"  # column with the key of a row's shard, on its way to the engines
SHARDS_PER_TASK = 16  # a task costs more than the milliseconds in which it reads a small shard

Expand = Callable[[pa.Table], pa.Table]  # source rows to the rows to answer


@dataclass(frozen=True)
class Shard:
    """One file of the source and the files that hold its answers, as paths on their filesystems."""

    key: str
    source: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class PassState:
    """Progress of a pass, counted on disk: numbers of distinct ids."""

    num_wanted: int
    num_saved: int

    @property
    def num_missing(self) -> int:
        return self.num_wanted - self.num_saved


@dataclass(frozen=True)
class RowFolders:
    """A source folder, the folder of its answers, and the id that joins their rows.

    Args:
        source: folder of the source rows.
        target: folder of their answers.
        id_column: unique among the rows to answer and among the answers.
        expand: makes the rows to answer from the source rows.
        source_id: the column of the source from which `expand` makes ids; the id column if empty.
    """

    source: str
    target: str
    id_column: str
    expand: Expand | None = None
    source_id: str = ""

    def shards(self) -> list[Shard]:
        """Every shard with its answers so far, from file names alone."""
        filesystem, path = storage.arrow_filesystem(self.target)
        answers = defaultdict(list)
        for file in tables.parquet_files(filesystem, path):
            answers[file.rpartition("/")[2].partition("-")[0]].append(file)
        filesystem, path = storage.arrow_filesystem(self.source)
        shards = [
            Shard(key := shard_key(file), file, tuple(answers.pop(key, ())))
            for file in tables.parquet_files(filesystem, path)
        ]
        assert not answers, f"files of {self.target} are not of {self.source}: {list(answers)[:3]}"
        return shards

    def state(self) -> PassState:
        """Compare all ids, in tasks, and drop the rows that two writers have saved.

        A row is saved twice if a worker of a killed run writes its last file after the resumed run
        has looked for missing rows.
        """
        shards = self.shards()
        parts = [shards[i : i + SHARDS_PER_TASK] for i in range(0, len(shards), SHARDS_PER_TASK)]
        states = ray.get([_state_of.remote(self, part) for part in parts])
        return PassState(
            sum(state.num_wanted for state in states), sum(state.num_saved for state in states)
        )

    def missing(self, rows_per_batch: int) -> ray.data.Dataset | None:
        """The source rows without an answer, in blocks of one batch, with the column SHARD."""
        shards = [
            {"key": shard.key, "source": shard.source, "answers": list(shard.answers)}
            for shard in self.shards()
        ]
        if not shards:
            return None
        rows = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
            self._missing_of, batch_size=None, batch_format="pyarrow"
        )
        # A batch is the unit of resume: one block, one task, and one file per shard in it.
        return rows.repartition(target_num_rows_per_block=rows_per_batch)

    def save(self, batch: pa.Table, answers: pa.Table) -> pa.Table:
        """Write the answers of a batch, one file for each shard, named by the rows' ids.

        A second answer to the same batch overwrites the same files.

        Args:
            batch: rows as `missing` returns them.
            answers: rows of the target's type, for some or all rows of the batch.

        Returns:
            The saved ids.
        """
        shard_of = dict(
            zip(batch[self.id_column].to_pylist(), batch[SHARD].to_pylist(), strict=True)
        )
        shards = pa.array(
            [shard_of[row] for row in answers[self.id_column].to_pylist()], pa.string()
        )
        for key in pc.unique(shards).to_pylist():
            self.save_shard(key, answers.filter(pc.equal(shards, key)))
        return answers.select([self.id_column])

    def save_shard(self, key: str, answers: pa.Table) -> None:
        """Write answers to rows of one shard as a file."""
        tables.write_table(self.target, answers, self._file_name(key, answers))

    def _file_name(self, key: str, rows: pa.Table) -> str:
        ids = "\n".join(sorted(rows[self.id_column].to_pylist()))
        return f"{key}-{hashlib.sha256(ids.encode()).hexdigest()[:16]}"

    def drop(self, is_dropped: Callable[[pa.Table], pa.BooleanArray]) -> int:
        """Delete some of the saved answers, so that their rows are missing again.

        For few rows, because the caller's process reads all answers.

        Args:
            is_dropped: for each row of a table of answers.

        Returns:
            The number of deleted answers.
        """
        filesystem, _ = storage.arrow_filesystem(self.target)
        num_dropped = 0
        for shard in self.shards():
            for file in shard.answers:
                rows = tables.read_file(filesystem, file)
                kept = rows.filter(pc.invert(is_dropped(rows)))
                if kept.num_rows == rows.num_rows:
                    continue
                # The new file first: a row that a kill leaves in both is saved twice and dropped.
                if kept.num_rows:
                    self.save_shard(shard.key, kept)
                filesystem.delete_file(file)
                num_dropped += rows.num_rows - kept.num_rows
        return num_dropped

    def answers_by_shard(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Key and answer files of every shard with answers."""
        yield from ((shard.key, shard.answers) for shard in self.shards() if shard.answers)

    # --- in tasks -------------------------------------------------------------------------------

    def _wanted(self, source: str) -> pa.Table:
        filesystem, _ = storage.arrow_filesystem(self.source)
        rows = tables.read_file(filesystem, source)
        return self.expand(rows) if self.expand else rows

    def _wanted_ids(self, source: str) -> pa.Array:
        """The ids of a shard's rows to answer, from the id column alone."""
        filesystem, _ = storage.arrow_filesystem(self.source)
        column = self.source_id or self.id_column
        rows = pa.table({column: tables.read_column(filesystem, source, column)})
        rows = self.expand(rows) if self.expand else rows
        return rows[self.id_column].combine_chunks()

    def _saved_ids(self, answers: Sequence[str]) -> list[pa.Array]:
        """The id column of each file of answers."""
        filesystem, _ = storage.arrow_filesystem(self.target)
        return [tables.read_column(filesystem, file, self.id_column) for file in answers]

    def _missing_of(self, shards: pa.Table) -> pa.Table:
        missing = []
        for shard in shards.to_pylist():
            rows = self._wanted(shard["source"])
            rows = without(rows, self.id_column, _all(self._saved_ids(shard["answers"])))
            keys = pa.array([shard["key"]] * rows.num_rows, pa.string())
            missing.append(rows.append_column(SHARD, keys))
        return pa.concat_tables(missing)

    def _state_of_shard(self, shard: Shard) -> PassState:
        wanted = self._wanted_ids(shard.source)
        ids_by_file = self._saved_ids(shard.answers)
        saved = pc.unique(_all(ids_by_file))
        if len(saved) < sum(map(len, ids_by_file)):
            self._drop_repeated_of_shard(shard, ids_by_file)
        unknown = pc.sum(pc.invert(pc.is_in(saved, value_set=wanted))).as_py() or 0
        assert not unknown, f"{unknown} rows of {self.target} are not of {shard.source}"
        return PassState(len(wanted), len(saved))

    def _drop_repeated_of_shard(self, shard: Shard, ids_by_file: Sequence[pa.Array]) -> None:
        saved = pa.array([], pa.string())
        for file, ids in zip(shard.answers, ids_by_file, strict=True):
            repeated = pc.sum(pc.is_in(ids, value_set=saved)).as_py() or 0
            if repeated or len(pc.unique(ids)) < len(ids):
                self._drop_repeated(file, shard.key, saved)
            saved = pc.unique(pa.concat_arrays([saved, ids]))

    def _drop_repeated(self, file: str, key: str, saved: pa.Array) -> None:
        """Rewrite a file without the rows that another file has, and without repetitions."""
        filesystem, _ = storage.arrow_filesystem(self.target)
        rows = without(tables.read_file(filesystem, file), self.id_column, saved)
        places = {row: i for i, row in reversed(list(enumerate(rows[self.id_column].to_pylist())))}
        filesystem.delete_file(file)
        if places:
            name = file.rpartition("/")[2].removesuffix(".parquet").partition("-")[2]
            rows = rows.take(sorted(places.values()))
            tables.write_table(self.target, rows, f"{key}-{name}-rest")


@ray.remote
def _state_of(folders: RowFolders, shards: list[Shard]) -> PassState:
    states = [folders._state_of_shard(shard) for shard in shards]
    return PassState(
        sum(state.num_wanted for state in states), sum(state.num_saved for state in states)
    )


def shard_key(source: str) -> str:
    """The key of a source file, a hash of its name alone, so a moved run keeps its keys."""
    return hashlib.sha256(source.rpartition("/")[2].encode()).hexdigest()[:12]


def without(table: pa.Table, id_column: str, ids: pa.Array) -> pa.Table:
    """The rows whose id is not in `ids`."""
    return table.filter(pc.invert(pc.is_in(table[id_column], value_set=ids)))


def _all(arrays: list[Any]) -> pa.Array:
    return pa.concat_arrays(arrays) if arrays else pa.array([], pa.string())
