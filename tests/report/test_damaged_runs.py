"""Damaged files of a run: each one is named in the report, and the others' figures are shown."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from humpback_ray.cli import app
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people.setup import PEOPLE
from humpback_ray.figures import run_facts
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import RunFigures
from humpback_ray.report import pages
from humpback_ray.report.comparison import compare, comparison_document
from humpback_ray.report.document import Table
from humpback_ray.report.look import select_rows
from humpback_ray.report.look_dropped import select_dropped
from humpback_ray.report.run_report import document_of
from humpback_ray.terminal.runs import print_run
from tests.support import benchmark_run, damage
from tests.support.people import Ballot, pairs, winner
from tests.support.run_folder import judge_figures, write_run

OVERRIDES = ["settings.prefilter={}", "settings.evaluation.safety=true", benchmark_run.OVERRIDE]
# A damage of each kind in a few places is tried by default, and in every place by `pytest -m long`.
FEW = 2
ROWS = {
    "seed/rows": "instruction", "segments/rows": "document_id", "candidates/rows": "instruction",
    "iter-1/rated/rows": "score", "iter-2/examples/rows": "prompt", "evaluation/M_1/rows": "kind",
    "benchmarks/M_2/scores": "value",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    write_run(str(folder), judge=judge_figures(), overrides=OVERRIDES)
    ballot = Ballot(folder / PEOPLE, pairs())
    ballot.all_of("ann", winner)
    ballot.log.close()
    return folder


@pytest.fixture(scope="module")
def expected(whole) -> RunFigures:
    return figures_of(str(whole))


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def shown(run: Path) -> RunFigures:
    """The figures of a run, after all of them went into a page, Markdown and JSON."""
    figures = figures_of(str(run))
    document = document_of(figures)
    pages.html(document)
    pages.markdown(document)
    json.dumps(asdict(figures), allow_nan=False)
    return figures


def named(figures: RunFigures) -> str:
    """Every line about something that is not shown."""
    return "\n".join([*figures.problems, *(entry.why for entry in figures.not_computed)])


def measured(figures: RunFigures) -> dict[str, Any]:
    """The measured figures, without settings and without the lines about missing figures."""
    left_out = ("problems", "not_computed", "stages", "settings", "versions", "run", "folder",
                "headline")  # fmt: skip
    return {name: value for name, value in asdict(figures).items() if name not in left_out}


def files_of(run: Path) -> list[Path]:
    """The JSON files of a run, a record of each kind of stage among them."""
    records: dict[str, Path] = {}
    for file in sorted(run.rglob("record.json")):
        records.setdefault(json.loads(file.read_text())["identity"]["kind"], file)
    return [*records.values(), run / "config.json", run / "attempts/001/attempt.json",
            *run.glob(f"{PEOPLE}/*/plan.json")]  # fmt: skip


def rounds(whole: Path) -> list[list[tuple[Path, damage.Place]]]:
    """Every place in every file, in rounds with one place of each file."""
    of_file = {file: list(damage.places(json.loads(file.read_text()))) for file in files_of(whole)}
    return [
        [(file.relative_to(whole), places[number]) for file, places in of_file.items()
         if number < len(places)]
        for number in range(max(map(len, of_file.values())))
    ]  # fmt: skip


def try_rounds(
    whole: Path, expected: RunFigures, tmp_path: Path, how: str, number: int | None
) -> None:
    """Damage a place of each file in each round; a measured figure may only change if named."""
    every, of_whole = rounds(whole), measured(expected)
    assert len(every) > 20
    chosen = every if number is None else random.Random(how).sample(every[:40], number)
    for nth, changes in enumerate(chosen):
        run = Path(shutil.copytree(whole, tmp_path / f"{nth}" / "run"))
        for file, place in changes:
            damage.put(run / file, place, damage.VALUES[how])
        figures = shown(run)
        if how == "word" and measured(figures) != of_whole:
            assert named(figures) != named(expected), changes
        comparison_document(compare(expected, figures))
        print_run(run_facts.status_of(str(run)))
        shutil.rmtree(run)


@pytest.mark.parametrize("how", list(damage.VALUES))
def test_value_of_another_type_in_some_places_crashes_no_report(whole, expected, tmp_path, how):
    try_rounds(whole, expected, tmp_path, how, FEW)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("how", list(damage.VALUES))
def test_value_of_another_type_in_any_place_crashes_no_report(whole, expected, tmp_path, how):
    try_rounds(whole, expected, tmp_path, how, None)


def test_filter_whose_record_lacks_figures_is_shown_without_them(run):
    record = run / "prefilter/model/record.json"
    content = json.loads(record.read_text())
    content["figures"] |= {"rank_correlation": None, "mean_score_of_cut": {}}
    first, *_ = content["figures"]["recall"].values()
    lost, *others = first["of_cut"]
    del first["of_cut"][lost]
    record.write_text(json.dumps(content))
    (table,) = [
        block for section in document_of(shown(run)).sections for block in section.blocks
        if isinstance(block, Table) and block.caption.startswith("What the filter")
    ]  # fmt: skip
    assert "rank correlation –." in table.note
    assert {*table.columns[3:]} == {f"cut to {cut}" for cut in (lost, *others)}
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert table.rows[0][table.columns.index(f"cut to {lost}")] == "–"
    assert all("(" in cell for row in table.rows[1:-1] for cell in row[3:])


@pytest.mark.parametrize("how", list(damage.FILES))
def test_damaged_file_is_named_and_the_others_are_shown(run, how):
    spoiled = ["iter-1/rated/record.json", "forward-0/model/record.json", "config.json"]
    for name in spoiled:
        damage.spoil(run / name, how)
    figures = shown(run)
    assert [name for name in spoiled if f"{name} is damaged" not in named(figures)] == []
    assert "cannot be read" in figures.headline
    assert [each.model for each in figures.losses] == ["base", "M_0", "M_1", "M_2"]
    assert "M_2 is better than M_1" in figures.headline
    states = {stage.stage: stage for stage in run_facts.status_of(str(run)).stages}
    assert states["iter-1/rated"].state == "unreadable"
    assert "is damaged" in run_facts.describe_unfinished(states["iter-1/rated"])


@pytest.mark.parametrize("how", list(damage.FILES))
def test_attempt_that_cannot_be_read_is_named_and_its_stages_are_found(run, expected, how):
    damage.spoil(run / "attempts/001/attempt.json", how)
    figures = shown(run)
    assert "attempt.json is damaged" in named(figures)
    assert {each.path for each in figures.stages} == {each.path for each in expected.stages}


@pytest.mark.parametrize("how", ["empty", "half", "no text", "middle", "null", "type", "column"])
def test_damaged_rows_are_named_and_no_figure_is_of_their_rest(whole, expected, tmp_path, how):
    of_whole = measured(expected)
    for number, (folder, column) in enumerate(ROWS.items()):
        if (folder, how) == ("iter-1/rated/rows", "null"):
            continue  # a pair without a score
        run = Path(shutil.copytree(whole, tmp_path / f"{number}" / "run"))
        damage.spoil_rows(run / folder, how, column)
        figures = figures_of(str(run))
        assert f"{run}/{folder}" in named(figures), folder
        for name, value in measured(figures).items():
            if isinstance(value, list) and name != "losses":
                assert value in (of_whole[name], []), (folder, name)
        assert {each.model: each.loss for each in figures.losses}.items() <= {
            each.model: each.loss for each in expected.losses
        }.items()
        shutil.rmtree(run)


def test_damaged_lines_of_metrics_are_counted_and_the_others_are_shown(run):
    file = run / "iter-1/model/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[3]["loss"], lines[4]["loss"], lines[5]["step"] = None, "low", [6]
    lines[6]["tokens_per_second"], lines[7]["peak_memory_gib"] = float("nan"), 1e400
    del lines[8]["loss"]
    texts = [json.dumps(line) for line in lines]
    texts[20], texts[21], texts[22] = "", "[1, 2]", "\x00\xff"
    file.write_text("\n".join(texts) + "\n" + texts[0][:20])
    figures = shown(run)
    (line,) = [line for line in figures.problems if "metrics.jsonl" in line]
    assert line == (
        "iter-1/model/metrics.jsonl: 4 of 151 lines are cut or no JSON and 5 values are no numbers "
        "(2 of loss, 1 of step, 1 of tokens_per_second, 1 of peak_memory_gib): left out"
    )
    (training,) = [each for each in figures.trainings if each.stage == "iter-1/model"]
    assert training.peak_memory_gib == 1.2
    # Four of 150 steps lack a loss or a number, three lines are lost, and 72 pairs are shown.
    assert len(training.losses) == 72
    assert figures.trainings[-1].losses


@pytest.mark.parametrize(("name", "value"), [("num_judged", 150), ("win_rate", None)])
@pytest.mark.parametrize("of", ["games", "controls"])
def test_win_rate_that_its_counts_do_not_carry_is_no_score(run, of, name, value):
    damage.put(run / "judgement/record.json", ("figures", of, 0, name), value)
    figures = shown(run)
    assert figures.judges == []
    assert "judgement/record.json, figures: " in named(figures)
    assert figures.headline.startswith("No judge's figures can be read, so")


@pytest.mark.parametrize("how", list(damage.FILES))
def test_status_of_a_stage_with_damaged_files_names_them(tmp_path, how):
    run = Path(write_run(str(tmp_path / "run"), until="iter-1/rated"))
    folder = run / "iter-1/examples"
    folder.mkdir()
    beat = {"time": "2026-11-28T10:00:00Z", "done": 1, "total": 2, "detail": "rows",
            "seconds_left": 5.0}  # fmt: skip
    mark = {"fingerprint": "f", "identity": {}}
    (folder / "started.json").write_text(json.dumps(mark))
    (folder / "progress.json").write_text(json.dumps(beat))
    (folder / "metrics.jsonl").write_text('{"rows_per_second": null}\n{"rows_per')
    (run / "attempts/001/run.log").write_text('{"level": 3}\n[]\n\n{"lev\n')
    facts = {stage.stage: stage for stage in run_facts.status_of(str(run)).stages}
    assert "no heartbeat for" in run_facts.describe_unfinished(facts["iter-1/examples"])
    damage.spoil(folder / "progress.json", how)
    facts = {stage.stage: stage for stage in run_facts.status_of(str(run)).stages}
    assert "progress.json is damaged" in run_facts.describe_unfinished(facts["iter-1/examples"])
    damage.spoil(folder / "started.json", how)
    (state,) = [s for s in run_facts.status_of(str(run)).stages if s.stage == "iter-1/examples"]
    assert (state.state, "started.json is damaged" in state.problem) == ("unreadable", True)


@pytest.mark.parametrize("how", ["empty", "half", "middle"])
def test_look_at_damaged_rows_is_one_line(run, how):
    damage.spoil_rows(run / "iter-1/rated/rows", how, "score")
    for ranked in (False, True):
        with pytest.raises(UserError, match=r"a file in .*iter-1/rated is"):
            select_rows(str(run / "iter-1/rated"), 3, [], ranked=ranked)
    damage.spoil_rows(run / "segments/dropped", how, "outcome")
    with pytest.raises(UserError, match=r"a file in .*segments/dropped is"):
        select_dropped(str(run / "segments"), 3, "too_short", [])


@pytest.mark.parametrize("how", list(damage.FILES))
def test_look_at_examples_beside_a_damaged_record_shows_them(run, how):
    damage.spoil(run / "iter-1/model/record.json", how)
    shown = select_rows(str(run / "iter-1/examples"), 2, [])
    assert len(shown.rows) == 2
    assert dict(shown.rows[0].fields).keys() >= {"origin", "to be trained on, up to max_length"}


@pytest.mark.parametrize("how", list(damage.FILES))
def test_commands_end_without_a_traceback(run, whole, tmp_path, how):
    for name in ("candidates/record.json", "iter-2/model/record.json"):
        damage.spoil(run / name, how)
    commands = [["status", str(run)], ["report", str(run)],
                ["report", str(whole), str(run), "--out", str(tmp_path / "two")]]  # fmt: skip
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
    result = CliRunner().invoke(app, ["probe", str(run)])
    assert result.exit_code == 2
    assert "candidates/record.json is damaged" in " ".join(result.output.split())
