"""What became of arms: their sizes, losses and win rates, the fit, and the files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from humpback_ray import storage
from humpback_ray.ablations.arms import Group
from humpback_ray.ablations.results import (
    AblationResults,
    fit_sizes,
    markdown,
    notes,
    read_results,
    table_rows,
    write_results,
)
from humpback_ray.ablations.run import run_arms
from humpback_ray.errors import UserError
from humpback_ray.evaluation.scaling import PAPER_ALPHAS
from humpback_ray.terminal.ablations import print_ablations
from tests.support.ablation import JUDGE, FinishedRun


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> AblationResults:
    """Results of a run with a judge, whose arms of several sizes lie on a line."""
    run = FinishedRun(tmp_path_factory.mktemp("judged"), JUDGE)
    plan = run.plan(Group.DATA, Group.SIZE, sizes=(2, 5, 10, 99))
    rates = {f"size-{n}": 40 + 6 * math.log(20 + n) for n in (2, 5, 10)}
    run.finish(plan, rates)
    return read_results(plan)


def row(results: AblationResults, name: str) -> tuple[str, ...]:
    return next(row for row in table_rows(results) if row[0] == name)


def test_arms_have_the_sizes_of_their_examples(judged):
    sizes = {arm.name: (arm.num_seed, arm.num_web) for arm in judged.arms}
    assert sizes == {
        "run": (20, 12), "data-seed": (20, 0), "data-web": (0, 14), "data-both": (20, 12),
        "size-2": (20, 2), "size-5": (20, 5), "size-10": (20, 10),
    }  # fmt: skip


def test_loss_is_compared_with_the_runs_on_the_same_answers(judged):
    run, web = judged.arms[0], judged.arms[2]
    assert run.change is None
    assert web.change.value == pytest.approx(web.loss.value - run.loss.value)
    # Each answer changes by nearly the same, so the change is far surer than either loss.
    assert web.change.high - web.change.low < (web.loss.high - web.loss.low) / 10
    assert judged.arms[3].change.value == 0


def test_win_rate_stands_with_its_interval_and_what_is_judged(judged):
    assert row(judged, "size-2")[-2:] == ("58.5 (52.5 to 64.5)", "200/200")
    assert row(judged, "data-seed")[-2:] == ("-", "-")


def test_fit_over_the_sizes_stands_beside_the_papers(judged):
    assert judged.fit.alpha == pytest.approx(6)
    assert judged.fit.num_points == 3
    assert "α = 6.00 (95% interval 6.00 to 6.00), C = 40.0" in "\n".join(notes(judged))
    assert all(f"{name} {alpha:.2f}" in notes(judged)[2] for name, alpha in PAPER_ALPHAS.items())


def changed_game(results: AblationResults, **changes):
    return [replace(arm, game=arm.game and replace(arm.game, **changes)) for arm in results.arms]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"failed_controls": ("empty answer",)}, "fails a control"),
        ({"win_rate": None}, "fewer than two sizes"),
    ],
)
def test_rates_that_say_nothing_are_not_fitted(judged, changes, reason):
    fit, note = fit_sizes(changed_game(judged, **changes))
    assert fit is None
    assert reason in note


def test_failed_control_stands_below_the_table(judged):
    failed = changed_game(judged, failed_controls=("empty answer",))
    assert "fails a control (empty answer)" in notes(replace(judged, arms=tuple(failed)))[1]


def test_size_that_was_left_out_stands_below_the_table(judged):
    assert notes(judged)[-1] == "left out: size-99: the run's selection has 14 pairs"


def test_files_have_every_figure_and_the_overrides(judged, tmp_path):
    files = write_results(judged, str(tmp_path))
    assert [storage.name(file) for file in files] == ["ablations.json", "ablations.md"]
    content = json.loads((tmp_path / "ablations" / "ablations.json").read_text())
    by_name = {arm["name"]: arm for arm in content["arms"]}
    assert by_name["size-5"]["game"]["low"] < by_name["size-5"]["game"]["win_rate"]
    assert by_name["size-5"]["overrides"] == list(judged.arms[5].overrides)
    assert len(by_name["size-5"]["fingerprints"]["ablations/size-5/iter-2/model"]) == 64
    assert content["paper_alphas"]["Humpback"] == 6.95
    text = (tmp_path / "ablations" / "ablations.md").read_text()
    assert "- size-5: `settings.last_iteration.selection={method: share" in text


def test_names_from_files_are_shown_as_they_are_in_markdown(judged):
    hostile = "x|y<script>\u202e[a](javascript:1)\n# Title"
    text = markdown(replace(judged, arms=tuple(changed_game(judged, opponent=hostile))))
    line = next(line for line in text.splitlines() if line.startswith("- Win rates"))
    assert r"x\|y\<script\>⟪U+202E⟫\[a\](javascript:1) \# Title" in line


def test_results_without_a_judge_have_losses_and_say_why_nothing_is_fitted(tmp_path):
    run = FinishedRun(tmp_path)
    plan = run.plan(Group.SIZE, sizes=(5, 10))
    run.finish(plan)
    results = read_results(plan)
    assert all(arm.loss and arm.game is None for arm in results.arms)
    assert "no judge is set" in notes(results)[0]


def test_printed_table_names_every_arm_and_the_files(judged, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    print_ablations(judged, ["runs/demo/ablations/ablations.md"])
    said = capsys.readouterr().out
    assert all(f"│ {arm.name} " in said for arm in judged.arms)
    assert "written: runs/demo/ablations/ablations.md" in said


def test_arm_of_other_settings_is_refused_before_any_arm_runs(tmp_path):
    run = FinishedRun(tmp_path)
    run.finish(run.plan(Group.SIZE, sizes=(5, 10)))
    storage.move(f"{run.folder}/ablations/size-5", f"{run.folder}/ablations/moved")
    storage.move(f"{run.folder}/ablations/size-10", f"{run.folder}/ablations/size-5")
    storage.delete(f"{run.folder}/ablations/moved")
    with pytest.raises(UserError, match=r"size-5/iter-2/examples was made under other .* delete"):
        run_arms(run.plan(Group.SIZE, sizes=(5,)), Console(width=200))


def test_finished_arms_are_not_run_again_and_the_runs_own_files_stay(tmp_path, capsys):
    run = FinishedRun(tmp_path)
    run.finish(run.plan(Group.SIZE, sizes=(5,)))
    before = storage.read_json(f"{run.folder}/config.json")
    run_arms(run.plan(Group.SIZE, sizes=(5,)), Console(width=200))
    said = capsys.readouterr().out
    assert "arm 2/2 size-5: settings.last_iteration.selection={method: share" in said
    assert said.count("done before") == 3
    assert "starting" not in said
    assert storage.read_json(f"{run.folder}/config.json") == before
    assert storage.names(f"{run.folder}/attempts") == {"001"}
