"""Row types to Parquet and back: schemas, nulls, enums, unfinished files, URLs."""

from __future__ import annotations

import pyarrow as pa
import pytest

from humpback_ray import storage, tables
from humpback_ray.rows import (
    Candidate,
    Finish,
    RatedPair,
    RatingOutcome,
    SeedPair,
    Segment,
    SegmentOutcome,
)

PAIRS = [SeedPair("b", "x", "y"), SeedPair("a", "ünïcode\n", "")]


@pytest.mark.parametrize("place", ["local", "file://", "memory://"])
def test_rows_round_trip_on_any_filesystem(tmp_path, place):
    folder = {"local": str(tmp_path), "file://": f"file://{tmp_path}", "memory://": "memory://rows"}
    tables.write_rows(f"{folder[place]}/rows", PAIRS, SeedPair)
    assert tables.read_rows(f"{folder[place]}/rows", SeedPair) == sorted(
        PAIRS, key=lambda pair: pair.pair_id
    )
    assert tables.num_rows(f"{folder[place]}/rows") == 2
    storage.delete(folder[place])


def test_batch_of_nulls_keeps_the_column_type(tmp_path):
    def rated(name, score, probabilities):
        return RatedPair(
            name, "s", "x", "y", score, probabilities, 0.9, 1, RatingOutcome.SCORED, "", False, 1,
            0, 1,
        )  # fmt: skip

    tables.write_rows(str(tmp_path), [rated("a", None, None)], RatedPair, name="nulls")
    tables.write_rows(str(tmp_path), [rated("b", 4.5, [0.5, 0.5])], RatedPair, name="values")
    table = tables.read_table(str(tmp_path))
    assert table.schema.field("score").type == pa.float64()
    assert table.schema.field("probabilities").type == pa.list_(pa.float64())
    rows = tables.read_rows(str(tmp_path), RatedPair)
    assert [row.score for row in rows] == [None, 4.5]
    assert rows[0].outcome is RatingOutcome.SCORED


def test_conform_gives_a_null_column_its_type():
    table = pa.table({"candidate_id": ["a"], "segment_id": ["s"], "instruction": ["x"],
                      "response": ["y"], "score": [None], "probabilities": [None],
                      "grade_mass": [None], "num_scored_samples": [0],
                      "outcome": ["empty"], "rationale": [""], "was_cut": [False],
                      "num_prompt_tokens": [1], "num_cached_tokens": [0],
                      "num_generated_tokens": [0], "extra": [1]})  # fmt: skip
    assert tables.conform(table, RatedPair).schema == tables.arrow_schema(RatedPair)


def test_empty_table_keeps_its_schema(tmp_path):
    tables.write_rows(str(tmp_path), [], Segment)
    assert tables.num_rows(str(tmp_path)) == 0
    assert tables.read_rows(str(tmp_path), Segment) == []
    assert not tables.count_values(str(tmp_path), "outcome")


@pytest.mark.parametrize(("least_rows", "sizes"), [(1, [1, 2, 1]), (2, [3, 1]), (9, [4])])
def test_growing_file_has_its_rows_in_row_groups(tmp_path, least_rows, sizes):
    rows = [SeedPair(f"{n}", "x", "y") for n in range(4)]
    file = tables.GrowingFile(str(tmp_path), "part-0", SeedPair, least_rows)
    for some in (rows[:1], rows[1:3], rows[3:]):
        file.add(tables.to_table(some, SeedPair))
    assert not list(tmp_path.iterdir())
    file.close()
    path = tables.path_of_named(str(tmp_path), "part-0")
    assert [len(group) for group in tables.scan_row_groups(*path)] == sizes
    assert tables.read_rows(str(tmp_path), SeedPair) == rows
    last = tables.read_row_groups(*path, len(sizes) - 1, len(sizes))
    assert last["pair_id"].to_pylist() == [f"{n}" for n in range(4 - sizes[-1], 4)]


def test_unfinished_file_is_not_counted(tmp_path):
    tables.write_rows(str(tmp_path), PAIRS, SeedPair)
    whole = (tmp_path / "part-0.parquet").read_bytes()
    (tmp_path / ".part-1.partial").write_bytes(whole[: len(whole) // 2])
    (tmp_path / ".part-2.parquet").write_bytes(whole)
    assert tables.num_rows(str(tmp_path)) == 2
    assert len(tables.read_rows(str(tmp_path), SeedPair)) == 2


def test_token_figures_have_sums_and_the_cached_share(tmp_path):
    rows = [
        Candidate(f"s{n}-0", f"s{n}", "x", "y", Finish.STOP, False, 100, 25 * n, 7)
        for n in range(3)
    ]
    for row in rows:
        tables.write_rows(str(tmp_path), [row], Candidate, name=row.candidate_id)
    assert tables.token_figures(str(tmp_path)) == {
        "num_prompt_tokens": 300, "num_generated_tokens": 21, "prefix_cache_share": 0.25,
    }  # fmt: skip


def test_repeated_ids_fail_an_assertion(tmp_path):
    tables.write_rows(str(tmp_path), [PAIRS[0], PAIRS[0]], SeedPair)
    with pytest.raises(AssertionError, match="not unique"):
        tables.assert_unique(str(tmp_path), "pair_id")


def test_count_values_counts_each_value(tmp_path):
    rows = [Segment(str(n), "t", "h", "d", "u", n, 1, SegmentOutcome.KEPT) for n in range(3)]
    rows += [Segment("9", "t", "h", "d", "u", 9, 1, SegmentOutcome.TOO_SHORT)]
    tables.write_rows(str(tmp_path), rows, Segment)
    assert tables.count_values(str(tmp_path), "outcome") == {"kept": 3, "too_short": 1}


def test_json_is_written_atomically(tmp_path):
    path = str(tmp_path / "deep/record.json")
    assert storage.read_json(path) is None
    storage.write_json(path, {"ü": 1})
    with pytest.raises(TypeError):
        storage.write_json(path, {"bad": object()})
    assert storage.read_json(path) == {"ü": 1}
    assert storage.names(str(tmp_path / "deep")) == {"record.json"}


def test_unwritable_folder_is_a_user_error():
    with pytest.raises(ValueError, match=r"cannot write to .*--run"):
        storage.check_writable("/dev/null/run")
