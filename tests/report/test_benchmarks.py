"""Benchmarks in a report: models side by side, the paper's figures, differences with intervals."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from humpback_ray import storage
from humpback_ray.figures.benchmark_types import BenchmarkFigures, TaskFigure
from humpback_ray.figures.benchmarks import change_of
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import RunFigures
from humpback_ray.report.comparison import compare
from humpback_ray.report.document import Paragraph, Table
from humpback_ray.report.run_report import report_run
from humpback_ray.report.sections.benchmarks import benchmarks
from tests.support import benchmark_run
from tests.support.benchmark_run import OVERRIDE, scores_of
from tests.support.run_folder import write_run

MODELS = ["base", "M_0", "M_1", "M_2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return write_run(str(tmp_path_factory.mktemp("runs") / "run"), overrides=[OVERRIDE])


@pytest.fixture(scope="module")
def found(run) -> RunFigures:
    return figures_of(run)


@pytest.fixture(scope="module")
def figures(found) -> BenchmarkFigures:
    (figures,) = found.benchmarks
    return figures


def task(figures: BenchmarkFigures, name: str, metric: str = "acc") -> TaskFigure:
    return next(t for t in figures.tasks if (t.task, t.metric) == (name, metric))


def tables(figures: BenchmarkFigures) -> dict[str, Table]:
    blocks = benchmarks([figures])
    return {block.caption: block for block in blocks if isinstance(block, Table)}


def cells(table: Table, name: str, metric: str) -> dict[str, str]:
    row = next(r for r in table.cells() if (r[0].text, r[1].text) == (name, metric))
    return dict(zip(table.columns, [cell.text for cell in row], strict=True))


def test_every_model_of_the_run_stands_beside_the_others(figures):
    piqa = task(figures, "piqa")
    assert [each.model for each in piqa.models] == MODELS
    assert [each.value for each in piqa.models] == pytest.approx([0.3, 0.4, 0.5, 0.6])
    values = [each["acc"] for each in scores_of("M_2")["piqa"]]
    assert piqa.models[-1].stderr == pytest.approx(statistics.stdev(values) / 40**0.5)
    assert (piqa.n, piqa.higher_is_better, figures.base, figures.last) == (40, True, "base", "M_2")


def test_change_is_of_the_same_questions_with_the_interval_of_their_differences(figures):
    change = task(figures, "piqa").change
    old, new = ([q["acc"] for q in scores_of(name)["piqa"]] for name in ("base", "M_2"))
    differences = [b - a for a, b in zip(old, new, strict=True)]
    half = 1.959964 * statistics.stdev(differences) / math.sqrt(40)
    assert (change.value, change.n) == (pytest.approx(0.3), 40)
    assert (change.low, change.high) == pytest.approx((0.3 - half, 0.3 + half))
    # Two separate standard errors would say less.
    base, *_, last = task(figures, "piqa").models
    assert half < 1.959964 * math.hypot(base.stderr, last.stderr)


def test_change_of_a_group_is_that_of_all_its_questions(figures):
    mmlu = task(figures, "mmlu")
    assert (mmlu.n, mmlu.change.n, mmlu.group) == (40, 40, "")
    assert task(figures, "mmlu_dunes").group == "mmlu"
    difference = mmlu.models[-1].value - mmlu.models[0].value
    assert mmlu.change.value == pytest.approx(difference)


def test_questions_of_one_model_alone_are_left_out_of_the_change():
    before = {("piqa", "acc"): {(0, "a"): 0.0, (1, "b"): 0.0}}
    after = {("piqa", "acc"): {(0, "a"): 1.0, (1, "another"): 1.0}}
    change = change_of(before, after, ["piqa"], "acc")
    assert (change.value, change.n, change.low) == (1.0, 1, None)
    assert change_of(before, after, ["piqa"], "acc_norm") is None


def test_table_has_the_papers_figures_in_columns_of_their_own(figures):
    table = tables(figures)["Zero-shot benchmarks by lm-eval 0.4.13, hf"]
    assert list(table.columns) == [
        "task", "metric", "questions", *MODELS, "M_2 − base", "interval", "paper, LLaMA 65B",
        "paper, Humpback 65B",
    ]  # fmt: skip
    piqa = cells(table, "piqa", "acc")
    assert (piqa["base"], piqa["M_2"]) == ("30.0 ± 7.3", "60.0 ± 7.8")
    assert piqa["M_2 − base"] == "+30.0"
    assert piqa["interval"].startswith("+15.")
    assert (piqa["paper, LLaMA 65B"], piqa["paper, Humpback 65B"]) == ("82.8", "78.9")
    assert cells(table, "mmlu", "acc")["paper, Humpback 65B"] == "59.0"
    assert cells(table, "piqa", "acc_norm")["paper, LLaMA 65B"] == "–"
    assert {row[0].text for row in table.cells()} == {"mmlu", "piqa"}


def test_parts_of_groups_are_folded(figures):
    parts = tables(figures)["Parts of the benchmarks"]
    assert parts.is_folded
    assert {row[0].text for row in parts.cells()} == {"mmlu_tides", "mmlu_dunes"}


def test_crows_pairs_stand_apart_by_category_without_the_papers_figure(figures):
    table = tables(figures)["CrowS-Pairs: preference for stereotypes, by category"]
    assert not any("paper" in column for column in table.columns)
    age = cells(table, "crows_pairs_english_age", "pct_stereotype ↓")
    assert (age["pairs"], age["base"][:4], age["M_2 − base"]) == ("10", "30.0", "+30.0")
    # A distance in nats is no share.
    assert cells(table, "crows_pairs_english_age", "likelihood_diff ↓")["base"].startswith("1.80 ")
    said = [b.text for b in benchmarks([figures]) if isinstance(b, Paragraph)]
    assert any("60.28" in text and "must not be compared" in text for text in said)
    assert task(figures, "crows_pairs_english", "pct_stereotype").paper is None


def test_models_asked_by_two_harnesses_are_a_warning(figures):
    mixed = replace(figures, harnesses={**figures.harnesses, "M_2": "lm-eval 0.4.14, vllm"})
    warning = next(iter(benchmarks([mixed])))
    assert isinstance(warning, Paragraph)
    assert warning.is_warning
    assert "M_2 by lm-eval 0.4.14, vllm" in warning.text


def test_base_alone_has_no_change(tmp_path):
    folder = str(tmp_path / "run")
    write_run(folder, overrides=[OVERRIDE], until="benchmarks/base")
    (figures,) = figures_of(folder).benchmarks
    assert figures.last == "base"
    assert task(figures, "piqa").change is None
    assert "interval" not in tables(figures)["Zero-shot benchmarks by lm-eval 0.4.13, hf"].columns


def test_run_without_benchmarks_says_why_there_are_none(tmp_path):
    found = figures_of(write_run(str(tmp_path / "run")))
    assert found.benchmarks == []
    reasons = {entry.what: entry.why for entry in found.not_computed}
    assert "settings.evaluation.benchmarks" in reasons["benchmarks"]


def test_record_of_another_version_is_named_and_the_rest_reported(tmp_path):
    folder = write_run(str(tmp_path / "run"), overrides=[OVERRIDE])
    path = f"{folder}/benchmarks/M_1/record.json"
    record = storage.read_json(path)
    del record["figures"]["backend"]
    storage.write_json(path, record)
    found = figures_of(folder)
    assert found.benchmarks == []
    (reason,) = [entry.why for entry in found.not_computed if entry.what == "benchmarks"]
    assert "another version" in reason
    assert found.losses


def test_report_has_the_figures_as_page_text_and_json(run, tmp_path):
    written = report_run(run, None, str(tmp_path))
    (of_run,) = json.loads(Path(written.figures).read_text())["benchmarks"]
    piqa = next(t for t in of_run["tasks"] if (t["task"], t["metric"]) == ("piqa", "acc"))
    assert piqa["models"][-1]["value"] == pytest.approx(0.6)
    assert piqa["change"]["n"] == 40
    assert piqa["paper"] == [82.8, 78.9]
    for page in (written.page, written.markdown):
        assert "must not be compared" in Path(page).read_text()


def test_two_runs_are_compared_by_their_benchmarks(found):
    other = replace(found, benchmarks=[])
    names = {(c.group, c.name): c for c in compare(found, other).figures}
    assert names["Benchmarks, acc", "piqa, M_2"].first.value == pytest.approx(0.6)
    assert names["Benchmarks, acc", "piqa, M_2"].second is None


def test_long_name_of_a_task_is_cut(figures):
    long = replace(task(figures, "piqa"), task="x" * 200)
    (table,) = tables(replace(figures, tasks=[long])).values()
    assert len(table.cells()[0][0].text) < 70


def test_figures_are_plain_values(figures):
    json.dumps(asdict(figures), allow_nan=False)
    assert set(benchmark_run.SKILLS) == set(figures.harnesses)
