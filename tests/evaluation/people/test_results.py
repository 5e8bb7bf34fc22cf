"""Results of votes: wins with intervals, raters' habits, a judge beside them, exported files."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from humpback_ray import tables
from humpback_ray.errors import UserError
from humpback_ray.evaluation.model_outputs import read_outputs
from humpback_ray.evaluation.people.items import pair_items, screening_items
from humpback_ray.evaluation.people.results import export, read_people, summarize
from humpback_ray.evaluation.people.study import Item, Kind, StudySettings, make_study
from humpback_ray.rows import Verdict, VerdictOutcome
from tests.support.people import NUM_ITEMS, Ballot, number_of, pairs, winner, write_json
from tests.support.records import record


@pytest.fixture
def voted(tmp_path):
    """Two raters who agree but on items 0 to 9, where ben is for a tie."""
    ballot = Ballot(tmp_path / "people", pairs())
    ballot.all_of("ann", winner)
    ballot.all_of("ben", lambda i: "tie" if number_of(i) < 10 else winner(i))
    ballot.log.close()
    return tmp_path


def results(folder):
    return summarize(read_people(str(folder / "people")), str(folder))


def test_items_with_two_raters_count_once_and_shares_add_up(voted):
    (pair,) = results(voted).pairs
    assert (pair.first, pair.second, pair.num_votes) == ("M_2", "org/other", 80)
    assert (pair.num_items, pair.win.n) == (NUM_ITEMS, NUM_ITEMS)
    assert pair.win.value == pytest.approx(15 / 40)
    assert pair.tie.value == pytest.approx(13 / 40)
    assert pair.loss.value == pytest.approx(12 / 40)
    assert pair.win_rate.value == pytest.approx(21.5 / 40)
    assert pair.win_rate.low < 21.5 / 40 < pair.win_rate.high


def test_agreement_is_alpha_over_shared_items_without_screening(voted):
    alpha = results(voted).pair_agreement
    assert alpha.n == NUM_ITEMS
    assert 0.5 < alpha.value < 0.75
    assert alpha.low < alpha.value < alpha.high


def test_steady_rater_is_right_consistent_and_of_no_side(voted):
    for rater in results(voted).raters:
        assert (rater.screening.value, rater.screening.n) == (1.0, 6)
        assert (rater.consistency.value, rater.consistency.n) == (1.0, 2)
        assert 0.3 < rater.left.value < 0.7
        assert not rater.failed_screening
        assert (rater.pace.median_seconds, rater.pace.num_below_floor) == (20.0, 0)


def test_rater_who_always_takes_the_left_is_seen(tmp_path):
    ballot = Ballot(tmp_path / "people", pairs())
    for shown in ballot.study.sheets["ann"]:
        ballot.vote("ann", shown, shown.left, seconds=1.0)
    (rater,) = results(tmp_path).raters
    assert rater.left.value == 1
    assert rater.consistency.value == 0
    assert rater.screening.value == 0.5
    assert rater.failed_screening
    assert rater.pace.num_below_floor == rater.num_votes == 48


def test_skipped_votes_count_for_no_model_and_their_reasons_are_told(tmp_path):
    ballot = Ballot(tmp_path / "people", pairs())
    first, second, third = ballot.study.sheets["ann"][6:9]
    ballot.vote("ann", first, "skip", reason="Another reason")
    ballot.vote("ann", second, "M_2")
    ballot.vote("ann", third, "tie")
    found = results(tmp_path)
    assert found.pairs[0].num_items == 2
    assert found.reasons == {"Another reason": 1}
    assert found.raters[0].num_skipped == 1
    assert found.pair_agreement is None  # no item has two votes


def test_folder_without_votes_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no votes in"):
        read_people(str(tmp_path))


def test_rater_who_is_left_out_counts_nowhere(voted):
    folder = str(voted / "people")
    found = summarize(read_people(folder, ["ben"]), str(voted))
    assert [rater.rater for rater in found.raters] == ["ann"]
    assert found.pairs[0].win.value == pytest.approx(20 / 40)
    with pytest.raises(UserError, match="--without eve: no such rater; votes are from ann, ben"):
        read_people(folder, ["eve"])
    with pytest.raises(UserError, match="no rater remains"):
        read_people(folder, ["ann", "ben"])


# --- the judge ------------------------------------------------------------------------------------


def write_judgement(run, preferences, first_is_2: bool = True) -> None:
    names = ("org/other", "M_2") if first_is_2 else ("M_2", "org/other")
    rows = [
        {"instruction": f"Q {n}?", "generator_1": names[0], "generator_2": names[1],
         "output_1": "", "output_2": "", "preference": preference}
        for n, preference in enumerate(preferences)
    ]  # fmt: skip
    write_json(run / "judgement" / "alpaca_eval" / "M_2" / "annotations.json", rows)
    (run / "judgement" / "alpaca_eval" / "leaderboard.csv").write_text("beside the folders")


def test_judge_stands_beside_people_with_both_win_rates(voted):
    """People: M_2 wins 0-19 and loses 28-39. The judge errs on 0-3 and 28-33; 800 more prompts."""
    preferences = [1.2] * 4 + [1.9] * 16 + [1.5] * 4 + [None] * 4 + [1.8] * 6 + [1.1] * 6
    write_judgement(voted, preferences + [1.7] * 500 + [1.3] * 300)
    judge = results(voted).pairs[0].judge
    errors = judge.rate.errors
    assert (errors.num_wins, errors.num_wins_seen) == (20, 16)
    assert (errors.num_losses, errors.num_losses_seen) == (12, 6)
    assert judge.num_ties == 8
    assert judge.agreement.value == pytest.approx(22 / 32)
    raw = 522 / 832
    assert judge.rate.raw.value == pytest.approx(raw)
    assert judge.rate.corrected.value == pytest.approx((raw - 0.5) / 0.3)
    assert (judge.num_judged, judge.num_prompts) == (836, 840)
    assert judge.failed_controls is None, "files from elsewhere have no controls"


def test_judge_with_less_than_99_percent_of_its_prompts_has_no_win_rate_beside_people(voted):
    write_judgement(voted, [1.9] * 38 + [None] * 2)
    judge = results(voted).pairs[0].judge
    assert (judge.num_judged, judge.num_prompts) == (38, 40)
    assert (judge.rate.raw, judge.rate.corrected) == (None, None)
    assert judge.rate.problem == "only 38 of 40 prompts are judged"
    assert judge.agreement.value == pytest.approx(20 / 30)


def test_prompts_are_the_judges_whatever_spaces_stand_at_their_ends(tmp_path):
    """Five of AlpacaEval's prompts end with spaces, in some of its files and not in others."""
    texts = {name: [f"{name} {n}" for n in range(12)] for name in ("M_2", "org/other")}
    files = []
    for name, ends in (("M_2", "\n"), ("org/other", "")):
        rows = [{"instruction": f"Q {n}?{ends}", "output": text, "generator": name}
                for n, text in enumerate(texts[name])]  # fmt: skip
        files.append(read_outputs(str(write_json(tmp_path / f"{name[:3]}.json", rows)), "x"))
    study = make_study(
        StudySettings(Kind.PAIR, ("ann",)), pair_items(files, 99, seed=0).items, [], {}
    )
    assert {item.instruction[-1] for item in study.items.values()} == {"\n"}
    ballot = Ballot(tmp_path / "people", study)
    ballot.all_of("ann", lambda _: "M_2")
    ballot.log.close()
    write_judgement(tmp_path, [1.9] * 6 + [1.1] * 6)
    judge = results(tmp_path).pairs[0].judge
    assert (judge.agreement.value, judge.agreement.n) == (0.5, 12)


def test_judge_with_the_models_the_other_way_round_is_the_same(voted):
    write_judgement(voted, [1.9] * 20 + [1.1] * 20)
    one = results(voted).pairs[0].judge
    write_judgement(voted, [1.1] * 20 + [1.9] * 20, first_is_2=False)
    assert results(voted).pairs[0].judge == one


def test_run_without_a_judge_or_with_one_of_other_models_has_no_judge_beside(voted):
    assert results(voted).pairs[0].judge is None
    path = voted / "judgement" / "alpaca_eval" / "x" / "annotations.json"
    row = {"instruction": "Q 1?", "generator_1": "x", "generator_2": "M_2", "preference": 2}
    write_json(path, [row])
    assert results(voted).pairs[0].judge is None


def test_game_against_no_reference_stands_beside_people_and_in_the_export(voted):
    """The judge's rows have M_2 : org/other, though every annotation file is against M_0."""
    write_json(voted / "judgement" / "alpaca_eval" / "M_2" / "annotations.json", [
        {"instruction": "Q 1?", "generator_1": "M_0", "generator_2": "M_2", "preference": 1.2}
    ])  # fmt: skip
    assert results(voted).pairs[0].judge is None
    preferences = [0.9] * 20 + [0.1] * 19 + [None] + [0.1] * 60
    verdicts = [
        verdict(n, preference, is_first)
        for n, preference in enumerate(preferences) for is_first in (True, False)
    ]  # fmt: skip
    tables.write_rows(str(voted / "judgement" / "rows"), verdicts, Verdict)
    controls = [{"name": "empty answer", "passed": True, "win_rate": 1.0},
                {"name": "constant answer", "passed": False, "win_rate": 80.0}]  # fmt: skip
    figures = {"judge": "j-70b", "controls": controls}
    write_json(voted / "judgement" / "record.json", asdict(record(200, figures=figures)))
    judge = results(voted).pairs[0].judge
    assert judge.rate.raw.value == pytest.approx(20 / 99)
    assert judge.failed_controls == ("constant answer",)
    assert judge.agreement.n == 31
    export(read_people(str(voted / "people")), str(voted / "out"), str(voted))
    rows = json.loads((voted / "out" / "M_2-org_other" / "judge" / "annotations.json").read_text())
    assert len(rows) == 100
    assert rows[0] == {
        "instruction": "Q 0?", "dataset": "koala", "annotator": "j-70b",
        "generator_1": "org/other", "output_1": "b 0", "generator_2": "M_2", "output_2": "a 0",
        "preference": pytest.approx(1.9),
    }  # fmt: skip
    assert rows[NUM_ITEMS - 1]["preference"] is None


def verdict(number: int, preference: float | None, is_first: bool) -> Verdict:
    """On the game org/other : M_2, with the preference for M_2."""
    outcome = VerdictOutcome.NO_VERDICT if preference is None else VerdictOutcome.JUDGED
    return Verdict(
        f"{number:02}-{is_first}", "", "org/other", "M_2", False, f"prompt-{number:02}", "koala",
        f"Q {number}?", f"b {number}", f"a {number}", is_first,
        None if preference is None else 1 - preference, None, outcome, "", 9, 0, 1,
    )  # fmt: skip


# --- labels and files -----------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    items = [
        Item(f"c{n}", f"Do {n}.", {"response": f"Text {n}."}, candidate_id=f"c{n}",
             stratum="5" if n < 4 else "1")
        for n in range(8)
    ]  # fmt: skip
    settings = StudySettings(Kind.LABEL, ("ann", "ben"), shared=1.0)
    study = make_study(settings, items, screening_items(None, Kind.LABEL), {}, {"1": 90, "5": 10})
    ballot = Ballot(tmp_path / "people", study)
    ballot.all_of("ann", lambda i: "good" if number_of(i) < 4 else "bad")
    ballot.all_of("ben", lambda i: {0: "bad", 7: "unsure"}.get(
        number_of(i), "good" if number_of(i) < 4 else "bad"))  # fmt: skip
    ballot.log.close()
    return tmp_path


def test_labels_are_counted_by_stratum_beside_the_pool(labelled):
    found = results(labelled)
    assert [(r.stratum, r.num_pool, r.good, r.bad, r.unsure) for r in found.labels] == [
        ("1", 90, 0, 4, 0), ("5", 10, 3, 0, 1),
    ]  # fmt: skip
    assert found.pairs == []
    assert found.label_agreement.n == 8
    assert {rater.screening.value for rater in found.raters} == {1.0}


def test_exported_labels_are_good_and_bad_ones(labelled):
    export(read_people(str(labelled / "people")), str(labelled / "out"))
    lines = (labelled / "out" / "labels.jsonl").read_text().splitlines()
    labels = [json.loads(line) for line in lines]
    assert labels == [
        {"candidate_id": f"c{n}", "label": "good" if n < 4 else "bad"} for n in range(1, 8)
    ]


def test_exported_annotations_are_alpaca_evals_and_give_the_same_win_rate(voted):
    people = read_people(str(voted / "people"))
    export(people, str(voted / "out"))
    rows = json.loads((voted / "out" / "M_2-org_other" / "annotations.json").read_text())
    assert len(rows) == NUM_ITEMS
    for row in rows:
        n = int(row["instruction"].split()[1][:-1])
        assert (row["generator_1"], row["output_1"]) == ("org/other", f"b {n}")
        assert (row["generator_2"], row["output_2"]) == ("M_2", f"a {n}")
        assert (row["annotator"], row["dataset"]) == ("humans", "koala")
        assert 1 <= row["preference"] <= 2
    mean = sum(row["preference"] - 1 for row in rows) / len(rows)
    assert mean == pytest.approx(results(voted).pairs[0].win_rate.value)
    assert len((voted / "out" / "votes.jsonl").read_text().splitlines()) == len(people.votes)
