"""Rows of a stage as a person sees them."""

from __future__ import annotations

import pytest

from humpback_ray import tables
from humpback_ray.errors import UserError
from humpback_ray.report.look import select_rows
from humpback_ray.rows import RatedPair, RatingOutcome, SeedPair


def write_rated(folder, scores: list[float | None]) -> None:
    rows = [
        RatedPair(
            f"s{n:02}-0", f"s{n:02}", f"x {n}", f"y {n}", score, None, None, 1,
            RatingOutcome.SCORED if score is not None else RatingOutcome.NO_GRADE, "", False, 9, 0,
            1,
        )
        for n, score in enumerate(scores)
    ]  # fmt: skip
    half = len(rows) // 2
    tables.write_rows(str(folder / "rows"), rows[half:], RatedPair, name="one")
    tables.write_rows(str(folder / "rows"), rows[:half], RatedPair, name="two")


def titles(folder, number: int, where: list[str], **options) -> list[str]:
    return [row.title for row in select_rows(str(folder), number, where, **options).rows]


def test_look_ranked_shows_best_middle_and_worst_rows_in_order(tmp_path):
    write_rated(tmp_path, [2.0, None, 4.5, 1.0, 3.0, 5.0, 3.5, 1.5, None, 4.0, 2.5])
    assert titles(tmp_path, 2, [], ranked=True) == [
        "best, 1 of 9: s05-0", "best, 2 of 9: s02-0",
        "middle, 4 of 9: s06-0", "middle, 5 of 9: s04-0",
        "worst, 8 of 9: s07-0", "worst, 9 of 9: s03-0",
    ]  # fmt: skip
    assert titles(tmp_path, 1, ["segment_id=s04"], ranked=True) == ["best, 1 of 1: s04-0"]
    assert len(titles(tmp_path, 5, [], ranked=True)) == 9, "no row is shown twice"
    assert len(titles(tmp_path, 2, [])) == 2


def test_look_ranked_of_rows_without_a_score_is_one_line(tmp_path):
    tables.write_rows(str(tmp_path / "rows"), [SeedPair("a", "Why?", "So.")], SeedPair)
    with pytest.raises(UserError, match="no scores to rank by"):
        select_rows(str(tmp_path), 1, [], ranked=True)
