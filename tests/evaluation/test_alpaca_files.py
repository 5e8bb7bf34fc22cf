"""Files for AlpacaEval: what is written gives the record's figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from humpback_ray.evaluation import alpaca_files, games
from humpback_ray.evaluation.games import Prompt
from tests.support.judging import SKILLS, Quality, answer, asked, judged, prompts

NUM_PROMPTS = 200


@pytest.fixture(scope="module")
def of_reference():
    """Games against M_0 with their figures; M_1 has no answer to one prompt."""
    verdicts = judged(asked(NUM_PROMPTS, missing={("M_1", "prompt-00003")}), Quality(0.2))
    found = [game for game in games.games_of(verdicts) if game.opponent == "M_0"]
    return [(game, game.figures(0)) for game in found if not game.is_control]


def written_files(folder, of_reference):
    answers = {
        model: {p.prompt_id: answer(model, p) for p in prompts(NUM_PROMPTS)} for model in SKILLS
    }
    del answers["M_1"]["prompt-00003"]
    alpaca_files.write_files(str(folder), prompts(NUM_PROMPTS), answers, of_reference, "a judge")


def test_annotations_give_the_win_rate_again_as_alpaca_eval_computes_it(tmp_path, of_reference):
    written_files(tmp_path, of_reference)
    assert {game.model for game, _ in of_reference} == {"base", "M_1", "M_2"}
    board = pd.read_csv(tmp_path / "leaderboard.csv", index_col=0)
    for game, found in of_reference:
        rows = pd.read_json(tmp_path / game.model / "annotations.json")
        assert rows.columns.tolist() == [
            "instruction", "output_1", "generator_1", "dataset", "output_2", "generator_2",
            "annotator", "preference",
        ]  # fmt: skip
        assert len(rows) == NUM_PROMPTS
        assert rows["instruction"].is_unique
        preferences = rows["preference"].dropna() - 1
        assert preferences.between(0, 1).all()
        line = board.loc[game.model]
        for name, value in (
            ("win_rate", preferences.mean() * 100),
            ("standard_error", preferences.sem() * 100),
            ("n_wins", (preferences > 0.5).sum()),
            ("n_wins_base", (preferences < 0.5).sum()),
            ("n_draws", (preferences == 0.5).sum()),
            ("n_total", len(preferences)),
        ):
            assert line[name] == pytest.approx(value, abs=1e-6), name
        discrete = (line["n_wins"] + line["n_draws"] / 2) / line["n_total"] * 100
        assert line["discrete_win_rate"] == pytest.approx(discrete, abs=1e-6)
        assert found["win_rate"] == pytest.approx(preferences.mean() * 100, abs=1e-6)
        assert {*rows["generator_1"]} == {"M_0"}
        assert {*rows["generator_2"]} == {game.model}


def test_unjudged_prompt_is_a_null_and_not_part_of_the_score(tmp_path, of_reference):
    written_files(tmp_path, of_reference)
    rows = json.loads((tmp_path / "M_1" / "annotations.json").read_text())
    (lost,) = [row for row in rows if row["preference"] is None]
    assert lost["instruction"] == "What is number 3?"
    outputs = json.loads((tmp_path / "M_1" / "model_outputs.json").read_text())
    assert len(outputs) == NUM_PROMPTS - 1
    assert set(outputs[0]) == {"dataset", "instruction", "output", "generator"}
    assert {*(row["generator"] for row in outputs)} == {"M_1"}


def test_leaderboard_has_alpaca_evals_columns_best_first_and_no_rump(tmp_path, of_reference):
    (game, found), *others = of_reference
    rump = game.figures(0) | {"win_rate": None}
    text = alpaca_files.leaderboard([(game, rump), *others])
    header, *lines = text.splitlines()
    assert header == (
        ",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,"
        "avg_length,length_controlled_winrate,lc_standard_error"
    )
    assert [line.split(",")[0] for line in lines] == [g.model for g, _ in others]
    rates = [found["win_rate"] for _, found in others]
    assert rates == sorted(rates, reverse=True)
    assert found["win_rate"] is not None


def test_files_hold_hostile_text_as_text(tmp_path, of_reference):
    hostile = '=HYPERLINK("x"),</script>\u202e\x00\n"'
    (game, found), *_ = of_reference
    name = alpaca_files.file_name("../../etc/\u202ex y")
    assert "/" not in name
    assert not name.startswith(".")
    some = [Prompt("prompt-0", "", hostile)]
    folder = str(tmp_path / "files")
    alpaca_files.write_files(folder, some, {"a/b": {"prompt-0": hostile}}, [(game, found)], "j")
    (row,) = json.loads((tmp_path / "files" / "a_b" / "model_outputs.json").read_text())
    assert row["instruction"] == row["output"] == hostile
    assert row["generator"] == "a/b"


def test_scores_are_not_rounded_on_their_way_into_annotations(of_reference):
    game, _ = of_reference[0]
    rows = alpaca_files.annotation_rows(game, "a judge")
    for row, score in zip(rows, game.scores, strict=True):
        assert row["preference"] is None if math.isnan(score) else row["preference"] == 1 + score
    assert np.isfinite(game.scores).any()
