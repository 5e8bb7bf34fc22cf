"""The rows of a folder, divided among the tasks of a search."""

from __future__ import annotations

import pytest

from humpback_ray import tables
from humpback_ray.rows import DroppedSegment, SegmentOutcome
from humpback_ray.stages import searching
from humpback_ray.stages.segments import searched_sections
from tests.support.duplicates import one_by_one, segments_of


def write_sections(folder, sizes: list[list[int]]) -> list[str]:
    """Files of row groups of these sizes; every fourth row is dropped. Returns the kept ids."""
    rows = segments_of([f"text {n}" for n in range(sum(map(sum, sizes)))])
    kept, first = [], 0
    for number, of_file in enumerate(sizes):
        file = tables.GrowingFile(str(folder), f"part-{number:02}", DroppedSegment)
        for size in of_file:
            outcomes = ["too_short" if n % 4 == 0 else "kept" for n in range(first, first + size)]
            some = [
                tables.as_dict(row) | {"outcome": outcome, "duplicate_of": None, "jaccard": None,
                                       "prompt_id": None, "shared_ngram": None}
                for row, outcome in zip(rows[first : first + size], outcomes, strict=True)
            ]  # fmt: skip
            kept += [row["segment_id"] for row in some if row["outcome"] == SegmentOutcome.KEPT]
            file.add(tables.to_table(some, DroppedSegment))
            first += size
        file.close()
    return kept


@pytest.mark.parametrize("files_per_count", [1, 2, 64])
@pytest.mark.parametrize("rows_per_task", [1, 7, 30, 1000])
def test_groups_have_every_row_once_and_few_more_than_asked_for(
    tmp_path, monkeypatch, rows_per_task, files_per_count
):
    monkeypatch.setattr(searching, "FILES_PER_COUNT", files_per_count)
    kept = write_sections(tmp_path, [[10, 10, 3], [4], [0], [10] * 5])
    searched = searched_sections(str(tmp_path))
    groups = searched.groups(rows_per_task, one_by_one)
    found, num_others = [], 0
    for pieces, num_searched in groups:
        rows, others, _ = searched.read(pieces)
        assert len(rows) == num_searched
        assert len(rows) + len(others) < rows_per_task + 10
        found += rows["segment_id"].to_pylist()
        num_others += len(others)
    assert found == kept
    assert num_others == 77 - len(kept)
    if files_per_count == 64:
        assert len(groups) == {1: 9, 7: 8, 30: 3, 1000: 1}[rows_per_task]


def test_folder_without_rows_is_one_group_with_its_columns(tmp_path):
    tables.write_rows(str(tmp_path), [], DroppedSegment)
    searched = searched_sections(str(tmp_path))
    [(pieces, num_searched)] = searched.groups(100, one_by_one)
    rows, others, _ = searched.read(pieces)
    assert num_searched == len(rows) == len(others) == 0
    assert rows.schema == tables.arrow_schema(DroppedSegment)
