"""Rows on disk as the checkpoint of a pass: what is missing, saved twice, or not of the source."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.exceptions import RayTaskError

from humpback_ray import storage, tables
from humpback_ray.serving import merging
from humpback_ray.serving.merging import Merging
from humpback_ray.serving.missing_rows import SHARD, PassState, RowFolders, shard_key

in_tasks = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Asked:
    row_id: str
    text: str


@dataclass(frozen=True)
class Answered:
    row_id: str
    answer: str


def folders_of(
    folder, num_files: int = 3, rows_per_file: int = 10, expand=None, copies: int = 1
) -> RowFolders:
    """A source of several files without an answer; ids are of their file and place."""
    for file in range(num_files):
        rows = [Asked(f"{file}-{number:03}", f"text {number}") for number in range(rows_per_file)]
        tables.write_rows(f"{folder}/source", rows, Asked, name=f"part-{file}")
    return RowFolders(f"{folder}/source", f"{folder}/target", "row_id", expand, copies)


def batches(folders: RowFolders, rows_per_batch: int) -> list[pa.Table]:
    """The batches that a pass would ask."""
    rows = folders.missing(rows_per_batch)
    if rows is None:
        return []
    blocks = [ray.get(ref) for ref in rows.to_arrow_refs()]
    return [block for block in blocks if block.num_rows]


def ids(batches_: list[pa.Table]) -> list[str]:
    return sorted(row for batch in batches_ for row in batch["row_id"].to_pylist())


def answer(folders: RowFolders, batch: pa.Table, text: str = "an answer") -> list[str]:
    """Save an answer to every row of a batch; returns the ids that were saved."""
    rows = [Answered(row, text) for row in batch["row_id"].to_pylist()]
    return folders.save(batch, tables.to_table(rows, Answered))["row_id"].to_pylist()


def saved(folders: RowFolders) -> list[str]:
    return [row.row_id for row in tables.read_rows(folders.target, Answered)]


def answer_files(folders: RowFolders) -> list[str]:
    return [file for shard in folders.shards() for file in shard.answers]


def names_of(folders: RowFolders) -> set[str]:
    return storage.names(folders.target)


def answered_in_parts(folders: RowFolders, size: int) -> None:
    """Save an answer to every missing row, in batches of at most `size` rows of one shard."""
    every_row = pa.concat_tables(batches(folders, 1000))
    for shard in folders.shards():
        rows = every_row.filter(pc.equal(every_row[SHARD], shard.key))
        for start in range(0, len(rows), size):
            answer(folders, rows.slice(start, size))


def twice(table: pa.Table) -> pa.Table:
    """Every row under two ids."""
    both = [pc.binary_join_element_wise(table["row_id"], pa.scalar(n), "/") for n in ("0", "1")]
    return pa.concat_tables(table.set_column(0, "row_id", column) for column in both)


@in_tasks
def test_batches_across_shards_save_every_row_once(tmp_path):
    folders = folders_of(tmp_path)
    assert folders.state() == PassState(30, 0)
    asked = batches(folders, 7)
    assert Counter(ids(asked)) == Counter(f"{f}-{n:03}" for f in range(3) for n in range(10))
    assert max(batch.num_rows for batch in asked) <= 7
    # Ray Data may put rows of several shards into one batch, as these are.
    every_row = pa.concat_tables(asked)
    spanning = [every_row.slice(start, 7) for start in range(0, 30, 7)]
    assert any(len(pc.unique(batch[SHARD])) > 1 for batch in spanning)
    for batch in spanning:
        assert sorted(answer(folders, batch)) == sorted(batch["row_id"].to_pylist())
    assert folders.state() == PassState(30, 30)
    assert saved(folders) == ids(asked)
    assert batches(folders, 7) == []
    # Each file of answers holds rows of one file of the source, and its name begins with that key.
    for shard in folders.shards():
        assert shard.key == shard_key(shard.source)
        number = shard.source.removesuffix(".parquet")[-1]
        filesystem, _ = storage.arrow_filesystem(folders.target)
        for file in shard.answers:
            assert file.rpartition("/")[2].startswith(f"{shard.key}-")
            rows = tables.read_column(filesystem, file, "row_id").to_pylist()
            assert {row.partition("-")[0] for row in rows} == {number}


@in_tasks
def test_finished_shards_are_one_file_each_which_a_start_does_not_read(tmp_path):
    folders = folders_of(tmp_path)
    answered_in_parts(folders, 3)
    assert len(answer_files(folders)) == 12
    assert folders.state() == PassState(30, 30)
    keys = {shard.key for shard in folders.shards()}
    assert names_of(folders) == {f"{key}-all-10.parquet" for key in keys}
    assert saved(folders) == [f"{f}-{n:03}" for f in range(3) for n in range(10)]
    for file in answer_files(folders):
        Path(file).write_bytes(b"a reader would fail")
    assert folders.state() == PassState(30, 30)
    assert batches(folders, 7) == []


@in_tasks
def test_start_reads_no_ids_of_shards_without_answers(tmp_path):
    def expand(table):
        raise AssertionError("ids are read")

    folders = folders_of(tmp_path, expand=expand, copies=4)
    assert folders.state() == PassState(120, 0)


@in_tasks
def test_unfinished_shard_has_one_file_after_a_start(tmp_path):
    folders = folders_of(tmp_path)
    every_row = pa.concat_tables(batches(folders, 30))
    for start in range(0, 18, 3):
        answer(folders, every_row.slice(start, 3))
    assert folders.state() == PassState(30, 18)
    assert [len(shard.answers) for shard in folders.shards()] == [1, 1, 0]
    assert folders.state() == PassState(30, 18)
    assert ids(batches(folders, 5)) == ids([every_row.slice(18)])


@in_tasks
def test_files_that_a_killed_merge_or_a_late_writer_leaves_count_once(tmp_path):
    folders = folders_of(tmp_path)
    answered_in_parts(folders, 4)
    parts = {file: Path(file).read_bytes() for file in answer_files(folders)}
    folders.state()
    whole = names_of(folders)
    for file, content in parts.items():
        Path(file).write_bytes(content)
    assert [len(shard.stale) for shard in folders.shards()] == [3, 3, 3]
    assert batches(folders, 7) == []
    assert folders.state() == PassState(30, 30)
    assert names_of(folders) == whole
    assert len(saved(folders)) == 30


@in_tasks
def test_answers_dropped_from_a_finished_shard_are_missing_again(tmp_path):
    folders = folders_of(tmp_path)
    answered_in_parts(folders, 4)
    late = Path(answer_files(folders)[0])
    content = late.read_bytes()
    folders.state()
    late.write_bytes(content)
    assert folders.drop(lambda table: pc.equal(table["row_id"], "0-001")) == 1
    assert folders.state() == PassState(30, 29)
    assert ids(batches(folders, 7)) == ["0-001"]
    answered_in_parts(folders, 1)
    assert folders.state() == PassState(30, 30)


@in_tasks
def test_files_of_a_run_that_an_older_version_began_are_answers(tmp_path):
    folders = folders_of(tmp_path, num_files=1)
    (batch,) = batches(folders, 10)
    for start, name in ((0, "0123456789abcdef"), (5, "fedcba9876543210")):
        rows = [Answered(row, "x") for row in batch["row_id"].slice(start, 4).to_pylist()]
        key = folders.shards()[0].key
        tables.write_rows(folders.target, rows, Answered, name=f"{key}-{name}")
    assert folders.state() == PassState(10, 8)
    assert ids(batches(folders, 10)) == ["0-004", "0-009"]


# --- while a pass runs --------------------------------------------------------------------------


@pytest.fixture
def looking_at_every_save(monkeypatch):
    monkeypatch.setattr(merging, "ROWS_PER_LOOK", 1)


@in_tasks
@pytest.mark.usefixtures("looking_at_every_save")
def test_shard_is_merged_as_soon_as_its_rows_are_asked(tmp_path):
    folders = folders_of(tmp_path)
    every_row = pa.concat_tables(batches(folders, 30))
    with Merging(folders, folders.state()) as running:
        for start in range(0, 30, 4):
            answer(folders, every_row.slice(start, 4))
            running.add(4)
    keys = {shard.key for shard in folders.shards()}
    assert names_of(folders) == {f"{key}-all-10.parquet" for key in keys}
    assert saved(folders) == ids([every_row])


@in_tasks
@pytest.mark.usefixtures("looking_at_every_save")
def test_files_that_were_there_at_the_start_stay_while_the_pass_runs(tmp_path):
    folders = folders_of(tmp_path, num_files=1)
    (batch,) = batches(folders, 10)
    answer(folders, batch.slice(0, 5))
    state = folders.state()
    (before,) = answer_files(folders)
    rows = folders.missing(10)
    with Merging(folders, state) as running:
        for start in (5, 7, 9):
            answer(folders, batch.slice(start, 2))
            running.add(2)
    (shard,) = folders.shards()
    assert (shard.num_finished, shard.stale) == (10, (before,))
    # Ray may repeat a task that reads, long after the shard is finished.
    assert sorted(row["row_id"] for row in rows.take_all()) == ids([batch.slice(5)])
    assert folders.state() == PassState(10, 10)
    assert names_of(folders) == {f"{shard.key}-all-10.parquet"}


@in_tasks
@pytest.mark.usefixtures("looking_at_every_save")
def test_shard_with_rows_left_for_a_second_pass_is_merged_by_both(tmp_path):
    folders = folders_of(tmp_path, num_files=1)
    (batch,) = batches(folders, 10)

    def answer_all_but(left: set[int], batch: pa.Table) -> None:
        for start in range(0, len(batch), 3):
            asked = batch.slice(start, 3)
            rows = [Answered(row, "x") for row in asked["row_id"].to_pylist()
                    if int(row[-1]) not in left]  # fmt: skip
            folders.save(asked, tables.to_table(rows, Answered))
            running.add(len(rows))

    with Merging(folders, folders.state()) as running:
        answer_all_but({1, 4, 8}, batch)
    (merged,) = answer_files(folders)
    assert folders.state() == PassState(10, 7)
    assert answer_files(folders) == [merged], "one file with its number of rows is left alone"
    (rest,) = batches(folders, 10)
    with Merging(folders, folders.state()) as running:
        answer_all_but(set(), rest)
    assert folders.state() == PassState(10, 10)
    assert len(names_of(folders)) == 1
    assert saved(folders) == ids([batch])


@in_tasks
def test_source_without_files_has_no_missing_rows(tmp_path):
    folders = RowFolders(f"{tmp_path}/source", f"{tmp_path}/target", "row_id")
    assert folders.state() == PassState(0, 0)
    assert folders.missing(4) is None
    tables.write_rows(folders.source, [], Asked)
    assert folders.state() == PassState(0, 0)
    assert batches(folders, 4) == []


@in_tasks
def test_deleted_answer_file_makes_exactly_its_rows_missing(tmp_path):
    folders = folders_of(tmp_path)
    for batch in batches(folders, 4):
        answer(folders, batch)
    filesystem, _ = storage.arrow_filesystem(folders.target)
    gone = answer_files(folders)[3]
    lost = sorted(tables.read_column(filesystem, gone, "row_id").to_pylist())
    filesystem.delete_file(gone)
    assert folders.state() == PassState(30, 30 - len(lost))
    asked = batches(folders, 4)
    assert ids(asked) == lost
    for batch in asked:
        answer(folders, batch)
    assert folders.state().num_missing == 0


@in_tasks
def test_batch_answered_twice_writes_the_same_files(tmp_path):
    folders = folders_of(tmp_path)
    batch = pa.concat_tables(batches(folders, 30))
    answer(folders, batch, "first")
    before = answer_files(folders)
    answer(folders, batch, "second")
    assert answer_files(folders) == before
    assert {row.answer for row in tables.read_rows(folders.target, Answered)} == {"second"}


@in_tasks
def test_row_left_out_of_a_batch_stays_missing(tmp_path):
    folders = folders_of(tmp_path)
    batch = pa.concat_tables(batches(folders, 30))
    answer(folders, batch.slice(5))
    assert folders.state() == PassState(30, 25)
    assert ids(batches(folders, 30)) == ids([batch.slice(0, 5)])


@in_tasks
def test_rows_of_two_writers_are_kept_once_across_files(tmp_path):
    folders = folders_of(tmp_path, num_files=2)
    # Batches of other sizes, as after a changed placement, while the killed run still wrote.
    for size in (20, 8, 3):
        asked = batches(RowFolders(folders.source, f"{tmp_path}/none", "row_id"), size)
        for batch in asked:
            answer(folders, batch, f"of {size}")
    assert len(saved(folders)) == 60
    assert folders.state() == PassState(20, 20)
    assert saved(folders) == sorted(f"{f}-{n:03}" for f in range(2) for n in range(10))
    before = answer_files(folders)
    assert folders.state() == PassState(20, 20)
    assert answer_files(folders) == before, "what is clean is not written again"


@in_tasks
def test_file_with_new_and_repeated_rows_keeps_the_new_ones(tmp_path):
    folders = folders_of(tmp_path, num_files=1)
    (batch,) = batches(folders, 10)
    answer(folders, batch.slice(0, 6), "first")
    answer(folders, batch.slice(3), "second")
    assert folders.state() == PassState(10, 10)
    rows = tables.read_rows(folders.target, Answered)
    assert [row.row_id for row in rows] == ids([batch])
    # One of the writers has kept all of its rows, the other what the first one does not have.
    assert Counter(row.answer for row in rows) in (
        Counter(first=6, second=4), Counter(first=3, second=7)
    )  # fmt: skip


@in_tasks
def test_row_repeated_within_a_file_is_kept_once(tmp_path):
    folders = folders_of(tmp_path, num_files=1)
    (batch,) = batches(folders, 10)
    rows = [Answered(row, f"answer {n}") for n in range(2) for row in batch["row_id"].to_pylist()]
    folders.save(batch, tables.to_table(rows, Answered))
    assert len(saved(folders)) == 20
    assert folders.state() == PassState(10, 10)
    assert saved(folders) == ids([batch])
    assert {row.answer for row in tables.read_rows(folders.target, Answered)} == {"answer 0"}


@in_tasks
def test_answers_without_a_source_row_fail_an_assertion(tmp_path):
    folders = folders_of(tmp_path)
    key = folders.shards()[0].key
    strange = [Answered("from elsewhere", "x")]
    tables.write_rows(folders.target, strange, Answered, name=f"{key}-strange")
    with pytest.raises(RayTaskError, match=r"1 rows of .*/target are not of .*/part-0"):
        folders.state()


def test_answer_files_of_another_source_fail_an_assertion(tmp_path):
    folders = folders_of(tmp_path)
    tables.write_rows(folders.target, [Answered("0-000", "x")], Answered, name="part-0")
    with pytest.raises(AssertionError, match=r"files of .*/target are not of .*/source"):
        folders.shards()


@in_tasks
def test_expanded_rows_are_found_and_saved_by_their_new_ids(tmp_path):
    folders = folders_of(tmp_path, num_files=2, rows_per_file=3, expand=twice, copies=2)
    assert folders.state() == PassState(12, 0)
    asked = batches(folders, 5)
    assert ids(asked) == sorted(
        f"{f}-{n:03}/{sample}" for f in range(2) for n in range(3) for sample in range(2)
    )
    answer(folders, asked[0])
    assert folders.state() == PassState(12, asked[0].num_rows)
    assert ids(batches(folders, 5)) == ids(asked[1:])


def ids_alone(table: pa.Table) -> pa.Table:
    """Rows that cannot be made where more than ids was read."""
    assert table.column_names == ["row_id"]
    return twice(table)


@in_tasks
def test_counting_saved_rows_reads_only_ids(tmp_path):
    folders = folders_of(tmp_path, expand=ids_alone, copies=2)
    assert folders.state() == PassState(60, 0)
    with pytest.raises(Exception, match="AssertionError"):
        batches(folders, 8)


@in_tasks
def test_moved_run_keeps_its_keys_and_has_no_missing_rows(tmp_path):
    here, there = tmp_path / "here", tmp_path / "elsewhere" / "there"
    folders = folders_of(here)
    first = pa.concat_tables(batches(folders, 12)).slice(0, 12)
    answer(folders, first)
    keys = [shard.key for shard in folders.shards()]
    there.parent.mkdir()
    here.rename(there)
    moved = RowFolders(f"{there}/source", f"{there}/target", "row_id")
    assert [shard.key for shard in moved.shards()] == keys
    assert moved.state() == PassState(30, 12)
    assert not set(ids(batches(moved, 12))) & set(ids([first]))


def test_memory_folders_have_shards_and_answers():
    """Covers this process alone, because Ray's workers do not share its memory."""
    folders = folders_of(f"memory://{uuid.uuid4().hex}")
    first, second, third = folders.shards()
    assert [shard.answers for shard in (first, second, third)] == [(), (), ()]
    shards = [{"key": s.key, "source": s.source, "answers": []} for s in (first, third)]
    batch = folders._missing_of(pa.Table.from_pylist(shards))
    assert Counter(batch[SHARD].to_pylist()) == {first.key: 10, third.key: 10}
    answer(folders, batch)
    assert [folders._settle(shard) for shard in folders.shards()] == [(10, 10), (10, 0), (10, 10)]
    assert [shard.num_finished for shard in folders.shards()] == [10, None, 10]
