"""Safety pairs in the funnel, and refusals as figures, section and comparison."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO

import pytest
from rich.console import Console

from humpback_ray import pipeline, storage
from humpback_ray.execution.stage import read_record
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import RunFigures
from humpback_ray.report.comparison import compare
from humpback_ray.report.document import Table
from humpback_ray.report.run_summary import summarize
from humpback_ray.report.sections import sections_of
from humpback_ray.report.sections.safety import PROXY
from humpback_ray.terminal.safety import refusals_table
from tests.support import run_folder
from tests.support.run_folder import NUM_SELECTED, write_run


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    safety = tmp_path_factory.mktemp("seed") / "safety.jsonl"
    safety.write_text("{}\n")
    return [f"settings.seed.safety={{path: {safety}, share: 0.2}}",
            "settings.evaluation.safety=true"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, overrides) -> tuple[str, RunFigures]:
    folder = write_run(str(tmp_path_factory.mktemp("runs") / "safe"), overrides=overrides)
    return folder, figures_of(folder)


def test_safety_pairs_are_a_step_of_the_funnel_and_add_up(finished):
    _, figures = finished
    steps = {step.name: step for step in figures.funnel}
    assert list(steps)[:3] == ["Seed pairs", "Safety pairs", "Documents"]
    assert (steps["Safety pairs"].num_in, steps["Safety pairs"].num_kept) == (6, 5)
    assert steps["Safety pairs"].reasons == {"above the number asked for": 1}
    assert steps["Examples of M_2"].what == "seed, safety and selected pairs"
    by_path = {stage.path: stage.outcomes for stage in figures.stages}
    assert by_path["iter-1/examples"] == {"web": NUM_SELECTED, "seed": 20, "safety": 5}
    assert by_path["forward-0/examples"] == {"seed": 20, "safety": 5}
    assert by_path["backward/examples"] == {"seed": 20}
    assert "safety-seed" in {sample.stage for sample in figures.samples}
    assert not [line for line in figures.problems if "safety" in line]


def test_examples_that_lack_safety_pairs_are_named(tmp_path, overrides):
    folder = write_run(str(tmp_path / "run"), overrides=overrides)
    record = storage.read_json(f"{folder}/iter-2/examples/record.json")
    record["outcomes"] |= {"safety": 4, "seed": 21}
    storage.write_json(f"{folder}/iter-2/examples/record.json", record)
    (line,) = [line for line in figures_of(folder).problems if "safety" in line]
    assert line == "safety examples in iter-2/examples: 4, and safety-seed has 5"


def test_refusals_of_every_model_stand_beside_the_bases(finished):
    _, figures = finished
    assert [entry.model for entry in figures.refusals] == ["base", "M_0", "M_1", "M_2"]
    last = figures.refusals[-1]
    assert (last.harmful.num_prompts, last.harmful.num_refused) == (10, 6)
    assert (last.harmful.refused.value, last.harmful.refused.n) == (6 / 9, 9)
    (section,) = [section for section in sections_of(figures) if section.anchor == "safety"]
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert PROXY in table.note
    assert table.rows[0] == (
        "base", "0 of 9 (1 without an answer)", "0.0%", "0.0% to 29.9%",
        "0 of 9 (1 without an answer)", "0.0%", "0.0% to 29.9%",
    )  # fmt: skip
    assert table.rows[-1][1:3] == ("6 of 9 (1 without an answer)", "66.7%")
    assert table.rows[-1][4:6] == ("3 of 9 (1 without an answer)", "33.3%")
    assert len(figures.losses) == 4, "no other figure takes these answers for an evaluation"
    assert "safety/M_2" in {entry.stage for entry in figures.generations}
    assert json.loads(json.dumps(asdict(figures), allow_nan=False))["refusals"][3]["model"] == "M_2"


def test_run_without_safety_prompts_says_so(tmp_path):
    figures = figures_of(write_run(str(tmp_path / "run")))
    assert figures.refusals == []
    (why,) = [entry.why for entry in figures.not_computed if entry.what == "refusals"]
    assert "settings.evaluation.safety" in why
    assert "safety" not in {section.anchor for section in sections_of(figures)}


def test_record_of_refusals_without_a_figure_is_named(tmp_path, overrides):
    folder = write_run(str(tmp_path / "run"), overrides=overrides)
    record = storage.read_json(f"{folder}/safety/M_1/record.json")
    del record["figures"]["harmful"]
    storage.write_json(f"{folder}/safety/M_1/record.json", record)
    figures = figures_of(folder)
    assert [each.model for each in figures.refusals] == ["base", "M_0", "M_2"]
    (problem,) = [line for line in figures.problems if "refusals" in line]
    assert "M_1" in problem
    assert "another version" in problem


def test_two_runs_compare_their_refusals(finished):
    _, figures = finished
    found = [c for c in compare(figures, figures).figures if "refused" in c.group]
    assert len(found) == 2 * 4
    assert found[0].first == found[0].second


def test_summary_has_a_row_of_refusals_for_each_model(finished, overrides):
    folder, _ = finished
    stages = pipeline.stages_of(run_folder.recipe(*overrides))
    records = {stage.path: read_record(f"{folder}/{stage.path}") for stage in stages}
    for name in ("base", "M_0", "M_1", "M_2"):
        records[f"evaluation/{name}"].figures["held_out_loss"] = 5.0
    summary = summarize(stages, records)
    console = Console(width=100, record=True, file=StringIO())
    console.print(refusals_table(summary.refusals))
    text = console.export_text()
    assert "6 of 9: 67 [35, 88]" in text
    assert "proxy" in text
