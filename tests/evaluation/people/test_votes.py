"""Votes on the disk: once each, whole lines only, undone ones kept and not counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation.people.items import screening_items
from humpback_ray.evaluation.people.study import Item, Kind, Study, StudySettings, make_study
from humpback_ray.evaluation.people.votes import (
    CastVote,
    VoteLog,
    add_returned,
    counted,
    join,
    read_votes,
)
from tests.support.people import ROOT


@pytest.fixture
def study() -> Study:
    items = [Item(f"i{n}", f"Q {n}?", {"M_2": f"a {n}", "M_1": f"b {n} \ud800"}) for n in range(4)]
    settings = StudySettings(Kind.PAIR, ("ann", "ben"), shared=1.0)
    return make_study(settings, items, screening_items(None, Kind.PAIR), {})


def cast(study: Study, place: int, choice: str = "left", number: int | None = None, **more):
    shown = study.sheets["ann"][place].shown_id
    vote_id = f"{place if number is None else number:032x}"
    return CastVote(vote_id=vote_id, item=shown, choice=choice, seconds=5.0, **more)


def test_vote_is_joined_with_texts_models_and_the_known_answer(study):
    for place, shown in enumerate(study.sheets["ann"]):
        vote = join(study, "ann", cast(study, place, "right"))
        item = study.items[shown.item_id]
        assert (vote.left_model, vote.left) == (shown.left, item.texts[shown.left])
        assert vote.chosen == vote.right_model != vote.left_model
        if item.is_screening:
            assert vote.known == ("left" if shown.left == "better" else "right")


def test_vote_of_another_rater_or_kind_is_a_user_error(study):
    with pytest.raises(UserError, match="none of rater ben's"):
        join(study, "ben", cast(study, 7))
    with pytest.raises(UserError, match="takes left, tie, right, skip"):
        join(study, "ann", cast(study, 7, "good"))


def test_repeated_vote_is_stored_once_and_found_again(study, tmp_path):
    log = VoteLog(str(tmp_path))
    vote = join(study, "ann", cast(study, 7, note="naïve"))
    assert log.add(vote)
    assert not log.add(vote)
    log.close()
    log = VoteLog(str(tmp_path))
    assert not log.add(vote)
    assert log.of(study, "ann") == [vote]
    assert read_votes(str(tmp_path)) == ([vote], 0)


def test_undone_vote_stays_in_the_file_and_counts_no_more(study, tmp_path):
    log = VoteLog(str(tmp_path))
    first, undone, again = (
        join(study, "ann", cast(study, 7, "left", 1)),
        join(study, "ann", cast(study, 7, "left", 1, undone=True)),
        join(study, "ann", cast(study, 7, "tie", 2)),
    )
    for vote in (first, undone, again):
        log.add(vote)
    votes, _ = read_votes(str(tmp_path))
    assert [(vote.choice, vote.undone) for vote in votes] == [
        ("left", False), ("left", True), ("tie", False),
    ]  # fmt: skip
    assert counted(votes) == [again]
    assert counted([undone, first]) == []  # whichever came first
    other = join(study, "ann", cast(study, 7, "right", 3))
    assert counted([again, other]) == [other]  # of two votes from two tabs the last


def test_line_that_a_crash_cut_is_removed(study, tmp_path):
    log = VoteLog(str(tmp_path))
    log.add(join(study, "ann", cast(study, 6)))
    log.close()
    file = tmp_path / "votes.jsonl"
    file.write_bytes(file.read_bytes() + b'{"vote_id": "half a vo')
    assert read_votes(str(tmp_path))[1] == 1
    log = VoteLog(str(tmp_path))
    log.add(join(study, "ann", cast(study, 7)))
    assert [vote.vote_id for vote in read_votes(str(tmp_path))[0]] == [f"{6:032x}", f"{7:032x}"]
    assert read_votes(str(tmp_path))[1] == 0


def test_vote_that_the_disk_refuses_leaves_whole_lines(study, tmp_path, monkeypatch):
    log = VoteLog(str(tmp_path))
    log.add(join(study, "ann", cast(study, 6)))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    vote = join(study, "ann", cast(study, 7))
    with pytest.raises(OSError, match="No space"):
        log.add(vote)
    monkeypatch.undo()
    assert len(read_votes(str(tmp_path))[0]) == 1
    assert log.add(vote)


def test_second_process_on_the_same_votes_is_a_user_error(tmp_path):
    log = VoteLog(str(tmp_path))
    code = f"from humpback_ray.evaluation.people.votes import VoteLog; VoteLog({str(tmp_path)!r})"
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert "another process has" in result.stderr
    log.close()
    VoteLog(str(tmp_path)).close()


@pytest.mark.parametrize(
    "change",
    [
        {"vote_id": "short"}, {"item": "../../etc"}, {"choice": "both"}, {"seconds": -1},
        {"seconds": float("nan")}, {"note": "x" * 4001}, {"model": "M_2"}, {"undone": "yes"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_vote_of_another_form_is_refused(study, change):
    good = cast(study, 7).model_dump()
    with pytest.raises(ValueError, match="validation error"):
        CastVote(**good | change)


# --- returned files -------------------------------------------------------------------------------


def returned(drawn: Study, *votes: CastVote, **more: str) -> str:
    lines = [v.model_dump() | {"study": drawn.study_id, "rater": "ann"} | more for v in votes]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_returned_file_is_added_once_and_its_lines_add_up(study, tmp_path):
    file = tmp_path / "votes.jsonl.txt"
    file.write_text(
        returned(study, cast(study, 6), cast(study, 7))
        + returned(study, cast(study, 8), study="0" * 12)
        + returned(study, cast(study, 8), rater="ghost")
        + returned(study, cast(study, 8, "good"))
        + "no json\n\n"
    )
    log = VoteLog(str(tmp_path / "people"))
    result = add_returned(log, {study.study_id: study}, str(file))
    assert (result.num_lines, result.num_added, result.num_known) == (6, 2, 0)
    assert result.refused == {
        "another study": 1, "unknown rater": 1, "unknown item or choice": 1, "not a vote": 1,
    }  # fmt: skip
    again = add_returned(log, {study.study_id: study}, str(file))
    assert (again.num_added, again.num_known) == (0, 2)
    assert len(read_votes(str(tmp_path / "people"))[0]) == 2


def test_file_without_any_vote_of_the_study_is_a_user_error(study, tmp_path):
    log = VoteLog(str(tmp_path / "people"))
    file = tmp_path / "other.jsonl"
    file.write_text("nothing\n")
    with pytest.raises(UserError, match="has no vote of a study"):
        add_returned(log, {study.study_id: study}, str(file))
    with pytest.raises(UserError, match="cannot read votes"):
        add_returned(log, {study.study_id: study}, str(tmp_path / "none"))
