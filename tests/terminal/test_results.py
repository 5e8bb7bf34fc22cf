"""Tables of a finished run, printed from typed values."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.evaluation import games, judging
from humpback_ray.evaluation.games import Contestants
from humpback_ray.pipeline import stages_of
from humpback_ray.report.run_summary import summarize
from humpback_ray.report.written import Answer, RankedPair, Written, read_written
from humpback_ray.rows import RatedPair, RatingOutcome
from humpback_ray.terminal.results import print_summary, print_times, print_written
from tests.support.judging import SKILLS, Quality, asked, judged
from tests.support.records import record
from tests.support.terminal_tables import cells

NO_CORPUS = "settings.corpus.path=/none"  # stages are declared without one, and sooner


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def print_summary_of(recipe: Recipe, run_folder: str, figures: dict[str, dict]) -> None:
    """Print the summary of a run whose records have these figures; every stage took a minute."""
    stages = pipeline.stages_of(recipe)
    records = {path: record(4, 60.0, figures=values) for path, values in figures.items()}
    print_summary(recipe.name, run_folder, summarize(stages, records))


def test_summary_shows_models_selections_and_next_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    figures: dict[str, dict] = {
        "base/model": {"num_examples": 9},
        "forward-0/model": {"num_examples": 40},
    }
    for t in (1, 2):
        figures[f"iter-{t}/rated"] = {}
        figures[f"iter-{t}/examples"] = {
            "num_scored": 30 + t,
            "mean_score": 3.25,
            "num_selected": 10 + t,
            "lowest_selected_score": 4.5,
        }
        figures[f"iter-{t}/model"] = {"num_examples": 50 + t, "num_passes": t / 8}
    losses = {"base": None, "M_0": 2.0, "M_1": 1.5, "M_2": 1.25}
    figures |= {f"evaluation/{name}": {"held_out_loss": loss} for name, loss in losses.items()}
    recipe = load_recipe("tiny", [NO_CORPUS])
    print_summary_of(recipe, str(tmp_path / "runs/x"), figures)
    output = capsys.readouterr().out
    assert cells(output, "base") == ["base", "9 examples", "-"]
    assert cells(output, "M_2") == ["M_2", "52 examples, 0.25 passes", "1.250 nats"]
    assert cells(output, "2") == ["2", "32", "3.25", "12", "4.50"]
    assert "The run lies in runs/x (12:00 of work)" in output
    assert re.search(r"the last model +iter-2/model  \(transformers", output)
    assert re.search(r"answers to prompts +evaluation/\*/outputs.json  \(AlpacaEval", output)
    assert "look runs/x/iter-2/rated -n 3" in output
    assert "look runs/x/iter-2/examples -n 3" in output
    assert re.search(r"report runs/x +│", output)


def test_commands_of_a_summary_quote_a_folder_with_blanks(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    recipe = load_recipe("tiny", [NO_CORPUS, "settings.iterations=1"])
    values = {
        "num_examples": 9, "held_out_loss": None, "num_scored": 8, "mean_score": 3.0,
        "num_selected": 2, "lowest_selected_score": 4.0,
    }  # fmt: skip
    figures: dict[str, dict] = {stage.path: values for stage in pipeline.stages_of(recipe)}
    print_summary_of(recipe, str(tmp_path / "Läufe a=b ~1"), figures)
    output = capsys.readouterr().out
    assert "look 'Läufe a=b ~1/iter-1/rated' -n 3" in output
    assert "chat 'Läufe a=b ~1'" in output


def test_summary_of_a_pretrained_base_shows_no_training(capsys):
    overrides = [NO_CORPUS, "settings.iterations=1", "settings.base={model: someone/else}"]
    figures: dict[str, dict] = {
        "forward-0/model": {"num_examples": 40},
        "iter-1/examples": {
            "num_scored": 1,
            "mean_score": 3.0,
            "num_selected": 1,
            "lowest_selected_score": 3.0,
        },
        "iter-1/model": {"num_examples": 41},
        **{f"evaluation/{name}": {"held_out_loss": 1.0} for name in ("base", "M_0", "M_1")},
    }
    print_summary_of(load_recipe("tiny", overrides), "/run", figures)
    assert cells(capsys.readouterr().out, "base") == ["base", "-", "1.000 nats"]


def test_summary_of_a_judged_run_shows_games_and_failed_controls(capsys):
    overrides = [
        NO_CORPUS, "settings.iterations=1", "settings.base={model: someone/else}",
        "settings.evaluation.judge={model: base}",
    ]  # fmt: skip
    verdicts = judged(asked(num_prompts=40), Quality(falls_for=judging.CONSTANT_ANSWER))
    lost = [
        replace(row, preference=None) if (row.model, row.opponent) == ("base", "M_0") else row
        for row in verdicts
    ]
    contestants = Contestants(tuple(SKILLS), (), "M_0")
    by = judging.VerdictsBy.TEXT
    figures: dict[str, dict] = {
        "iter-1/examples": {
            "num_scored": 1, "mean_score": 3.0, "num_selected": 1, "lowest_selected_score": 3.0,
        },
        **{path: {"num_examples": 41} for path in ("forward-0/model", "iter-1/model")},
        **{f"evaluation/{name}": {"held_out_loss": 1.0} for name in ("base", "M_0", "M_1")},
        "judgement": games.figures(lost, contestants, "[red]judge", by, 0),
    }  # fmt: skip
    print_summary_of(load_recipe("tiny", overrides), "/run", figures)
    output = capsys.readouterr().out
    assert "Games, judged by [red]judge (text)" in output
    rows = [re.split("[│┃]", line)[1:-1] for line in output.splitlines()]
    found = {(row[0].strip(), row[1].strip()): row for row in rows if len(row) == 6}
    assert re.search(r"\d\.\d% to \d+\.\d%", found["M_2", "base"][3])
    assert [cell.strip() for cell in found["base", "M_0"][2:]] == [
        "-", "- to -", "-", "0 of 40"
    ]  # fmt: skip
    failed = [line for line in output.splitlines() if line.startswith("the judge fails")]
    assert failed == [
        "the judge fails a control: constant answer wins 100.0%, and must lose: its whole "
        "interval lies below 50"
    ]


WRITTEN = Written(
    [
        RankedPair("best, 1 of 48", "3.412", "What does [pip] do?", "It installs packages. " * 40),
        RankedPair("worst, 48 of 48", "1.027", "List the changes.", "Release 2.0\n- [fixed] a bug"),
    ],
    "What is a load balancer?",
    [Answer("base", "A load balancer spreads requests. " * 20), Answer("M_0", "[x] spreads")],
)


def test_written_texts_fit_80_columns_and_keep_every_word(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_written(WRITTEN)
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    words = re.sub(r"[│┃\s]+", " ", output)
    for text in ("What does [pip] do?", "best", "3.412", "48 of 48", "- [fixed] a bug",
                 "Answers to: What is a load balancer?", "[x] spreads"):  # fmt: skip
        assert text in words
    assert words.count("It installs packages.") < 40
    assert "[...]" in words


def test_times_of_stages_add_up(capsys):
    print_times({"seed": 15.0, "base/model": 45.0})
    output = capsys.readouterr().out
    assert cells(output, "seed") == ["seed", "15 s", "25%"]
    assert cells(output, "all") == ["all", "1:00", ""]


def test_written_texts_are_read_from_the_last_rating_and_the_evaluations(tmp_path):
    stages = stages_of(load_recipe("tiny"))
    for t in (1, 2):
        pairs = [rated(number, score=number / t) for number in (1, 2, 3)]
        tables.write_rows(f"{tmp_path}/iter-{t}/rated/rows", pairs, RatedPair)
    names = ("base", "M_0", "M_1", "M_2")
    for name in names:
        answers = [{"instruction": q, "output": f"{name} on {q}"} for q in ("Why?", "How?")]
        storage.write_json(f"{tmp_path}/evaluation/{name}/outputs.json", answers)
    written = read_written(str(tmp_path), stages)
    assert [(pair.place, pair.score) for pair in written.pairs] == [
        ("best, 1 of 3", "1.500"), ("middle, 2 of 3", "1.000"), ("worst, 3 of 3", "0.500")
    ]  # fmt: skip
    assert written.pairs[0].instruction == "Question: 3?"
    assert written.pairs[0].text == "Answer: 3."
    assert written.question == "Why?"
    assert written.answers == [Answer(name, f"{name} on Why?") for name in names]


def test_models_that_failed_on_the_first_prompt_are_shown_on_another(tmp_path):
    for t in (1, 2):
        tables.write_rows(f"{tmp_path}/iter-{t}/rated/rows", [rated(1, 2.0)], RatedPair)
    for name in ("base", "M_0", "M_1", "M_2"):
        questions = ("Why?", "How?") if name == "base" else ("How?", "When?")
        answers = [{"instruction": q, "output": f"{name} on {q}"} for q in questions]
        storage.write_json(f"{tmp_path}/evaluation/{name}/outputs.json", answers)
    written = read_written(str(tmp_path), stages_of(load_recipe("tiny")))
    assert written.question == "How?"
    assert [answer.text for answer in written.answers] == [
        f"{name} on How?" for name in ("base", "M_0", "M_1", "M_2")
    ]


def test_run_without_evaluation_prompts_shows_pairs_alone(tmp_path, capsys):
    for t in (1, 2):
        tables.write_rows(f"{tmp_path}/iter-{t}/rated/rows", [rated(1, 2.0)], RatedPair)
    for name in ("base", "M_0", "M_1", "M_2"):
        storage.write_json(f"{tmp_path}/evaluation/{name}/outputs.json", [])
    print_written(read_written(str(tmp_path), stages_of(load_recipe("tiny"))))
    output = capsys.readouterr().out
    assert "Question: 1?" in output
    assert "Answers to" not in output


def rated(number: int, score: float) -> RatedPair:
    return RatedPair(
        candidate_id=f"c-{number}", segment_id=f"s-{number}", instruction=f"Question: {number}?",
        response=f"Answer: {number}.", score=score, probabilities=None, grade_mass=None,
        num_scored_samples=1, outcome=RatingOutcome.SCORED, rationale="", was_cut=False,
        num_prompt_tokens=1, num_cached_tokens=0, num_generated_tokens=1,
    )  # fmt: skip
