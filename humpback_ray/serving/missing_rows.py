"""Rows of a source folder that have no answer in the target yet: a generating stage's checkpoint.

A *shard* is one Parquet file of the source. Every file of answers holds rows of one shard and its
name begins with the shard's key, so each check compares one source file with its answers. No
process holds more ids than one shard has, and the driver holds file names alone.

    KEY-ROWS-HASH.parquet    answers to some of ROWS rows, which were asked together
    KEY-all-ROWS.parquet     the answers to all ROWS rows of a shard: the shard is finished

A finished shard is one file, and its name has all that a start needs to know. So a start reads ids
only of shards with some answers and not all, and the footers of those without any. A merge writes
its file before it deletes the files that it has read, so a kill leaves rows twice and loses none.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from humpback_ray import storage, tables

SHARD = "_shard"  # column with the key of a row's shard, on its way to the engines
SHARDS_PER_TASK = 16  # a task costs more than the milliseconds in which it reads a small shard
# Of `state`, because the workers of a killed driver may delete the files that they have merged.
MAX_TRIES = 5

_WHOLE = re.compile(r"-all-(\d+)\.parquet$")
_ASKED = re.compile(r"-(\d+)-[0-9a-f]{16}\.parquet$")

Expand = Callable[[pa.Table], pa.Table]  # source rows to the rows to answer


@dataclass(frozen=True)
class Shard:
    """One file of the source and the files that hold its answers, as paths on their filesystems."""

    key: str
    source: str
    answers: tuple[str, ...]  # of a finished shard, the one file that has them all
    stale: tuple[str, ...] = ()  # of a finished shard, files whose rows are in that one too

    @property
    def num_finished(self) -> int | None:
        """The number of answers of a finished shard; None if the shard is not finished."""
        whole = _WHOLE.search(self.answers[0]) if self.answers else None
        return int(whole[1]) if whole else None

    def num_asked(self) -> int:
        """The number of asked rows by the names of the files: an estimate of the saved ones."""
        found = [_ASKED.search(file) for file in self.answers]
        return sum(int(name[1]) for name in found if name)


@dataclass(frozen=True)
class PassState:
    """Progress of a pass, counted on disk: numbers of distinct ids."""

    num_wanted: int
    num_saved: int
    # The number of rows to answer of each shard that is not finished, by the shard's key.
    wanted: Mapping[str, int] = field(default_factory=dict, compare=False)

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
        copies: the number of rows that `expand` makes of each source row.
        source_id: the column of the source from which `expand` makes ids; the id column if empty.
    """

    source: str
    target: str
    id_column: str
    expand: Expand | None = None
    copies: int = 1
    source_id: str = ""

    def shards(self) -> list[Shard]:
        """Every shard with its answers so far, from file names alone."""
        filesystem, path = storage.arrow_filesystem(self.target)
        answers = defaultdict(list)
        for file in tables.parquet_files(filesystem, path):
            answers[file.rpartition("/")[2].partition("-")[0]].append(file)
        filesystem, path = storage.arrow_filesystem(self.source)
        shards = [
            _shard(key := shard_key(file), file, answers.pop(key, []))
            for file in tables.parquet_files(filesystem, path)
        ]
        assert not answers, f"files of {self.target} are not of {self.source}: {list(answers)[:3]}"
        return shards

    def state(self) -> PassState:
        """Count the wanted and the saved rows, and leave at most one file of answers to a shard.

        Tasks compare the ids of the shards that have some answers and are not finished. They drop
        the rows that two writers have saved: a worker of a killed run may write its last file after
        the resumed run has looked for missing rows.
        """
        for _ in range(MAX_TRIES - 1):
            with suppress(FileNotFoundError):
                return self._state()
        return self._state()

    def _state(self) -> PassState:
        shards = self.shards()
        self._delete_stale(shards)
        num_finished = sum(shard.num_finished or 0 for shard in shards)
        todo = [shard for shard in shards if shard.num_finished is None]
        parts = [todo[i : i + SHARDS_PER_TASK] for i in range(0, len(todo), SHARDS_PER_TASK)]
        counts = [count for part in ray.get([_settle.remote(self, part) for part in parts])
                  for count in part]  # fmt: skip
        return PassState(
            num_finished + sum(num_wanted for num_wanted, _ in counts),
            num_finished + sum(num_saved for _, num_saved in counts),
            {shard.key: count[0] for shard, count in zip(todo, counts, strict=True)},
        )

    def _delete_stale(self, shards: Sequence[Shard]) -> None:
        filesystem, _ = storage.arrow_filesystem(self.target)
        for shard in shards:
            for file in shard.stale:
                filesystem.delete_file(file)

    def missing(self, rows_per_batch: int) -> ray.data.Dataset | None:
        """The source rows without an answer, in blocks of one batch, with the column SHARD.

        The files of answers must stay while the dataset runs, because a task that Ray repeats must
        give the same rows again.
        """
        shards = [
            {"key": shard.key, "source": shard.source, "answers": list(shard.answers)}
            for shard in self.shards()
            if shard.num_finished is None
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
        num_asked = Counter(shard_of.values())
        for key in pc.unique(shards).to_pylist():
            self.save_shard(key, answers.filter(pc.equal(shards, key)), num_asked[key])
        return answers.select([self.id_column])

    def save_shard(self, key: str, answers: pa.Table, num_asked: int | None = None) -> str:
        """Write answers to rows of one shard as a file; returns its name.

        Args:
            num_asked: rows that were asked together, with those without an answer; None: as many
                as answers.
        """
        ids = "\n".join(sorted(answers[self.id_column].to_pylist()))
        num_asked = len(answers) if num_asked is None else num_asked
        name = f"{key}-{num_asked}-{hashlib.sha256(ids.encode()).hexdigest()[:16]}"
        tables.write_table(self.target, answers, name)
        return f"{name}.parquet"

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
        shards = self.shards()
        # Without the file that has them all, stale files would count as answers again.
        self._delete_stale(shards)
        for shard in shards:
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
        return self._expanded(tables.read_file(filesystem, source))

    def _wanted_ids(self, source: str) -> pa.Array:
        """The ids of a shard's rows to answer, from the id column alone."""
        filesystem, _ = storage.arrow_filesystem(self.source)
        column = self.source_id or self.id_column
        rows = pa.table({column: tables.read_column(filesystem, source, column)})
        return self._expanded(rows)[self.id_column].combine_chunks()

    def _expanded(self, rows: pa.Table) -> pa.Table:
        wanted = self.expand(rows) if self.expand else rows
        assert len(wanted) == self.copies * len(rows), f"{len(wanted)} rows made of {len(rows)}"
        return wanted

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

    def _settle(self, shard: Shard) -> tuple[int, int]:
        """Merge the files of an unfinished shard; returns its numbers of wanted and saved rows."""
        if not shard.answers:
            filesystem, _ = storage.arrow_filesystem(self.source)
            return self.copies * tables.num_rows_of(filesystem, shard.source), 0
        wanted, ids_by_file = self._wanted_ids(shard.source), self._saved_ids(shard.answers)
        saved = pc.unique(_all(ids_by_file))
        unknown = pc.sum(pc.invert(pc.is_in(saved, value_set=wanted))).as_py() or 0
        assert not unknown, f"{unknown} rows of {self.target} are not of {shard.source}"
        is_repeated = len(saved) < sum(map(len, ids_by_file))
        is_one_file = len(shard.answers) == 1 and shard.num_asked() == len(saved) < len(wanted)
        if is_repeated or not is_one_file:
            try:
                self.merge(shard, len(wanted))
            except FileNotFoundError:
                raise
            except storage.errors():
                # On a full disk many files are as good as one, but no row may be there twice.
                if is_repeated:
                    raise
        return len(wanted), len(saved)

    def merge(self, shard: Shard, num_wanted: int, staying: Collection[str] = ()) -> None:
        """Write the answers of a shard into one file, each row once, and delete the files before.

        A shard with all of its answers is finished by that.

        Args:
            num_wanted: the number of rows of the shard.
            staying: files that are not deleted. A shard that is not finished is merged without
                them.
        """
        filesystem, _ = storage.arrow_filesystem(self.target)
        rows = self._without_repeated(filesystem, shard.answers)
        if len(rows) == num_wanted:
            name = f"{shard.key}-all-{num_wanted}.parquet"
            tables.write_table(self.target, rows, name.removesuffix(".parquet"))
            merged = shard.answers
        else:
            merged = tuple(file for file in shard.answers if file not in staying)
            name = self.save_shard(shard.key, self._without_repeated(filesystem, merged))
        for file in merged:
            if file not in staying and file.rpartition("/")[2] != name:
                with suppress(FileNotFoundError):
                    filesystem.delete_file(file)

    def _without_repeated(self, filesystem: pa.fs.FileSystem, files: Sequence[str]) -> pa.Table:
        """The rows of some files in the order of their ids, of each id the first."""
        rows = pa.concat_tables(tables.read_file(filesystem, file) for file in files)
        rows = rows.take(pc.sort_indices(rows, [(self.id_column, "ascending")]))  # is stable
        ids = rows[self.id_column].combine_chunks()
        if not len(ids):
            return rows
        is_new = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        return rows.filter(pa.concat_arrays([pa.array([True]), is_new]))


@ray.remote
def _settle(folders: RowFolders, shards: list[Shard]) -> list[tuple[int, int]]:
    return [folders._settle(shard) for shard in shards]


def _shard(key: str, source: str, answers: list[str]) -> Shard:
    whole = [file for file in answers if _WHOLE.search(file)]
    if not whole:
        return Shard(key, source, tuple(answers))
    return Shard(key, source, (whole[0],), tuple(file for file in answers if file != whole[0]))


def shard_key(source: str) -> str:
    """The key of a source file, a hash of its name alone, so a moved run keeps its keys."""
    return hashlib.sha256(source.rpartition("/")[2].encode()).hexdigest()[:12]


def without(table: pa.Table, id_column: str, ids: pa.Array) -> pa.Table:
    """The rows whose id is not in `ids`."""
    return table.filter(pc.invert(pc.is_in(table[id_column], value_set=ids)))


def _all(arrays: list[Any]) -> pa.Array:
    return pa.concat_arrays(arrays) if arrays else pa.array([], pa.string())
