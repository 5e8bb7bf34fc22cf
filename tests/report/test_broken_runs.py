"""Runs of another version, and runs with empty stages: named in the report, and no crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback_ray import storage, tables
from humpback_ray.figures.run import figures_of
from humpback_ray.report import pages
from humpback_ray.report.run_report import document_of
from tests.support.run_folder import judge_figures, write_run

ROWS = ("seed", "segments", "candidates", "iter-1/rated", "iter-2/examples", "evaluation/M_0")


def amend(run: str, path: str, **changes) -> None:
    file = f"{run}/{path}/record.json"
    storage.write_json(file, storage.read_json(file) | changes)


def reported(run: str) -> str:
    return pages.html(document_of(figures_of(run)))


@pytest.mark.parametrize(
    ("path", "what"), [("iter-1/examples", "the funnel"), ("judgement", "win rates")]
)
def test_record_without_its_figures_is_named_and_the_rest_is_computed(tmp_path, path, what):
    run = write_run(str(tmp_path / "run"), judge=judge_figures())
    amend(run, path, figures={})
    figures = figures_of(run)
    reasons = {entry.what: entry.why for entry in figures.not_computed}
    assert f"the record of {path}" in reasons[what]
    assert "another version of this program" in reasons[what]
    assert figures.losses
    assert figures.scores
    assert "Loss on held-out seed answers" in pages.html(document_of(figures))


def empty(run: str, path: str, has_file: bool) -> None:
    """Take all rows of a stage away, as if it had found none."""
    folder = Path(run, path, "rows")
    none = tables.read_table(str(folder)).slice(0, 0)
    storage.delete(str(folder))
    if has_file:
        tables.write_table(str(folder), none, "part-0")
    amend(run, path, num_rows=0, outcomes={})


@pytest.mark.parametrize("path", ROWS)
def test_report_of_an_empty_stage_has_its_zero(tmp_path, path):
    run = write_run(str(tmp_path / "run"))
    empty(run, path, has_file=True)
    assert "<h1>run</h1>" in reported(run)


def test_report_of_a_run_in_which_every_stage_is_empty(tmp_path):
    run = write_run(str(tmp_path / "run"))
    for path in (*ROWS, "iter-1/examples", "iter-2/rated", "evaluation/M_2"):
        empty(run, path, has_file=False)
    assert "<h1>run</h1>" in reported(run)
