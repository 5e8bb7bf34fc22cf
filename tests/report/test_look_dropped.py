"""Dropped rows as a person sees them: a duplicate beside the text that it repeats."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from humpback_ray import tables
from humpback_ray.cli import app
from humpback_ray.errors import UserError
from humpback_ray.method.filters import segment_id
from humpback_ray.report.look_dropped import select_dropped
from humpback_ray.rows import (
    Candidate,
    DroppedCandidate,
    DroppedSegment,
    Finish,
    InstructionOutcome,
    Segment,
    SegmentOutcome,
)
from tests.support.duplicates import changed, random_words, search, segments_of


def deduplicated(folder):
    """A stage with one kept text, a near-duplicate of it, and a copy of each."""
    words = random_words(0, 300)
    one, other = " ".join(words), " ".join(changed(words, 1, 0))
    if segment_id(other) < segment_id(one):
        one, other = other, one
    search(folder, segments_of([one, other, one, other]))
    return one, other


def test_look_at_near_duplicates_shows_both_texts(tmp_path):
    kept, near = deduplicated(tmp_path)
    shown, (repetition,) = select_dropped(str(tmp_path), 5, "near_duplicate", [])
    assert shown.num_matching == 1
    assert (repetition.dropped, repetition.kept) == (near, kept)
    assert repetition.row.title == segment_id(near)
    fields = dict(repetition.row.fields)
    assert fields["duplicate_of"] == segment_id(kept)
    assert float(fields["jaccard"]) > 0.95
    assert not fields.keys() & {"text", "outcome"}


def test_look_at_copies_of_a_dropped_text_finds_it_among_the_dropped_ones(tmp_path):
    texts = set(deduplicated(tmp_path))
    _, repetitions = select_dropped(str(tmp_path), 5, "exact_duplicate", [])
    assert {repetition.kept for repetition in repetitions} == texts
    assert all(repetition.kept == repetition.dropped for repetition in repetitions)


def test_look_at_dropped_instructions_finds_the_kept_one_by_its_hash(tmp_path):
    def fields(number, instruction):
        return (f"s{number}-0", f"s{number}", instruction, "", Finish.STOP, False, 1, 0, 1)

    kept = Candidate(*fields(1, "Why is the sky blue?"))
    dropped = DroppedCandidate(
        *fields(2, "Why is  the sky blue, then?"), segment_id("x"),
        InstructionOutcome.NEAR_DUPLICATE, segment_id(kept.instruction), 0.75,
    )  # fmt: skip
    tables.write_rows(str(tmp_path / "rows"), [kept], Candidate)
    tables.write_rows(str(tmp_path / "dropped"), [dropped], DroppedCandidate)
    _, (repetition,) = select_dropped(str(tmp_path), 5, "near_duplicate", [])
    assert repetition.kept == kept.instruction
    assert repetition.dropped == dropped.instruction


def test_look_at_rows_that_repeat_nothing_shows_them_as_they_are(tmp_path):
    row = DroppedSegment("a", "short", "", "d", "u", 0, 5, SegmentOutcome.TOO_SHORT, *[None] * 4)
    tables.write_rows(str(tmp_path / "dropped"), [row], DroppedSegment)
    shown, repetitions = select_dropped(str(tmp_path), 5, "too_short", [])
    assert [shown_row.title for shown_row in shown.rows] == ["a"]
    assert repetitions == []


def test_look_at_a_reason_without_rows_lists_the_reasons(tmp_path):
    deduplicated(tmp_path)
    with pytest.raises(UserError, match=r"exact_duplicate \(2\), near_duplicate \(1\)"):
        select_dropped(str(tmp_path), 5, "near-duplicate", [])
    with pytest.raises(UserError, match="has no dropped rows"):
        select_dropped(str(tmp_path / "rows"), 5, "near_duplicate", [])


def test_look_dropped_prints_texts_side_by_side_without_controls(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    kept = Segment("k", "the kept [b]text", "", "d", "", 0, 9, SegmentOutcome.KEPT)
    near = DroppedSegment(
        "n",
        "the \x1b[31mdropped text",
        "",
        "d",
        "",
        0,
        9,
        SegmentOutcome.NEAR_DUPLICATE,
        "k",
        0.9,
        None,
        None,
    )
    tables.write_rows(str(tmp_path / "rows"), [kept], Segment)
    tables.write_rows(str(tmp_path / "dropped"), [near], DroppedSegment)
    command = ["look", str(tmp_path), "--dropped", "near_duplicate"]
    output = CliRunner().invoke(app, command).output
    (line,) = [line for line in output.splitlines() if "dropped text" in line]
    assert "the kept [b]text" in line
    assert "\x1b" not in output
    assert CliRunner().invoke(app, [*command, "--ranked"]).exit_code == 2
