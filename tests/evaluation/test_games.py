"""Games: who plays whom, what is asked, and the figures of a whole evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from humpback_ray import tables
from humpback_ray.evaluation import games, judging
from humpback_ray.evaluation.games import Contestants
from humpback_ray.evaluation.judging import CONTROLS, VerdictsBy
from humpback_ray.rows import Verdict, VerdictOutcome
from tests.support.judging import Quality, asked, judged, prompts

OWN = ("base", "M_0", "M_1", "M_2")


# --- who plays whom -------------------------------------------------------------------------------


def test_last_model_plays_all_others_and_every_model_plays_the_reference():
    contestants = Contestants(OWN, ("guanaco", "davinci"), "davinci")
    assert contestants.games() == [
        ("M_2", "M_1"), ("M_2", "M_0"), ("M_2", "base"), ("M_2", "guanaco"), ("M_2", "davinci"),
        ("M_1", "davinci"), ("M_0", "davinci"), ("base", "davinci"), ("guanaco", "davinci"),
    ]  # fmt: skip


def test_reference_of_the_run_plays_each_pair_once():
    found = Contestants(OWN, (), "M_0").games()
    assert found == [
        ("M_2", "M_1"), ("M_2", "M_0"), ("M_2", "base"), ("M_1", "M_0"), ("base", "M_0"),
    ]  # fmt: skip
    assert Contestants(("base", "M_0"), (), "M_0").games() == [("M_0", "base")]


# --- what is asked --------------------------------------------------------------------------------


def test_every_pair_is_asked_in_both_orders_with_other_keys():
    rows = asked(num_prompts=6, num_control_prompts=4)
    of_games = [row for row in rows if not row.is_control]
    assert len(of_games) == 5 * 6 * 2
    assert len(rows) - len(of_games) == len(CONTROLS) * 4 * 2
    assert len({row.verdict_id for row in rows}) == len(rows)
    assert len({row.key for row in of_games}) == len(of_games)
    itself = [row for row in rows if row.model == "reference against itself"]
    assert len({row.key for row in itself}) == 4, "both orders are the same question"


def test_prompt_without_an_answer_is_a_comparison_without_one():
    rows = asked(num_prompts=3, missing={("M_1", "prompt-00001")})
    without = {
        (row.model, row.opponent) for row in rows if None in (row.output, row.opponent_output)
    }
    assert without == {("M_2", "M_1"), ("M_1", "M_0")}


def test_controls_take_the_same_prompts_in_any_order():
    some = prompts(20)
    drawn = games.control_prompts(some, 7)
    assert len(drawn) == 7
    assert games.control_prompts(some[::-1], 7) == drawn
    assert games.control_prompts(some, 50) == games.control_prompts(some[::-1], 50)


# --- figures --------------------------------------------------------------------------------------


def figures(verdicts, **changes):
    contestants = Contestants(OWN, (), "M_0")
    return games.figures(verdicts, contestants, "a judge", VerdictsBy.TEXT, 0, **changes)


def test_sound_judge_orders_the_models_and_passes_every_control():
    found = figures(judged(asked(num_prompts=40), Quality()))
    assert (found["judge"], found["verdicts_by"], found["num_prompts"]) == ("a judge", "text", 40)
    assert [each["passed"] for each in found["controls"]] == [True] * 5
    by_game = {(each["model"], each["opponent"]): each for each in found["games"]}
    for each in by_game.values():
        assert each["num_judged"] == each["num_prompts"] == 40
        assert each["low"] <= each["win_rate"] <= each["high"]
    assert by_game["M_2", "base"]["low"] > 50 > by_game["base", "M_0"]["high"]
    assert [each["model"] for each in found["strengths"]] == ["M_2", "M_1", "M_0", "base"]
    assert found["strengths"][-1] == {"model": "base", "strength": 0.0, "low": 0.0, "high": 0.0}
    assert 0 < found["smallest_difference"] < 50
    # Against M_0; M_0 has no win rate against itself.
    assert [(each["model"], each["other"]) for each in found["differences"]] == [
        ("M_2", "M_1"), ("M_2", "base"),
    ]  # fmt: skip
    for each in found["differences"]:
        apart = by_game["M_2", "M_0"]["win_rate"] - by_game[each["other"], "M_0"]["win_rate"]
        assert each["difference"] == pytest.approx(apart)
        assert each["low"] <= each["difference"] <= each["high"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_liking_for_the_first_place_cancels_out_and_is_shown():
    rows = asked(num_prompts=60)
    fair, biased = (figures(judged(rows, Quality(for_first=each))) for each in (0.0, 0.3))
    for one, other in zip(fair["games"], biased["games"], strict=True):
        assert (one["win_rate"] > 50) == (other["win_rate"] > 50)
        assert one["order_disagreement"] == 0.0
    assert max(each["order_disagreement"] for each in biased["games"]) > 0.2
    itself = biased["controls"][-1]
    assert (itself["name"], itself["win_rate"]) == ("reference against itself", pytest.approx(50))
    assert itself["passed"]


def test_judge_who_falls_for_a_control_fails_it():
    verdicts = judged(asked(num_prompts=40), Quality(falls_for=judging.TEMPLATE_BREAKING_ANSWER))
    found = {each["name"]: each for each in figures(verdicts)["controls"]}
    assert found["answer that breaks the template"]["win_rate"] == 100
    assert {name for name, each in found.items() if not each["passed"]} == {
        "answer that breaks the template"
    }


def test_rump_of_verdicts_has_no_win_rate_and_no_strength():
    verdicts = judged(asked(num_prompts=40), Quality())
    lost = [
        replace(row, preference=None, outcome=VerdictOutcome.ENGINE_ERROR)
        if "M_1" in (row.model, row.opponent) and row.prompt_id == "prompt-00003"
        else row
        for row in verdicts
    ]
    found = figures(lost)
    for each in found["games"]:
        is_rump = "M_1" in (each["model"], each["opponent"])
        assert (each["num_prompts"], each["num_judged"]) == (40, 39 if is_rump else 40)
        assert (each["win_rate"] is None) == is_rump
    assert {each["model"] for each in found["strengths"]} == {"base", "M_0", "M_2"}


def test_evaluation_without_any_verdict_has_figures_without_scores():
    verdicts = [
        replace(row, preference=None, outcome=VerdictOutcome.NO_VERDICT)
        for row in judged(asked(num_prompts=3), Quality())
    ]
    found = figures(verdicts)
    assert {each["win_rate"] for each in found["games"] + found["controls"]} == {None}
    assert not any(each["passed"] for each in found["controls"])
    assert (found["strengths"], found["smallest_difference"]) == ([], None)
    assert found["differences"] == []


def test_games_are_the_same_from_rows_in_any_order(tmp_path):
    verdicts = judged(asked(num_prompts=12), Quality())
    tables.write_rows(str(tmp_path), verdicts[::-1], Verdict)
    assert figures(tables.read_rows(str(tmp_path), Verdict)) == figures(verdicts)


def test_verdict_that_stands_twice_is_noticed():
    verdicts = judged(asked(num_prompts=2), Quality())
    with pytest.raises(AssertionError, match="stands twice"):
        games.games_of([*verdicts, verdicts[0]])
