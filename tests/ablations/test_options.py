"""The options of `humpback ablate`, right and wrong."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from humpback_ray import storage
from humpback_ray.ablations import options
from humpback_ray.ablations.arms import Group, Values
from humpback_ray.cli import app
from humpback_ray.figures.run_facts import RunState, status_of
from tests.support.ablation import JUDGE, FinishedRun


def test_groups_and_values_are_read_from_lists():
    assert options.groups("k, data") == [Group.K, Group.DATA]
    assert options.values("20,40,20", None, "4.5,3") == Values((20, 40), thresholds=(4.5, 3.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arms", "curation,sizes"), "--arms sizes: no such group; choose of curation, data"),
        (("--arms", ""), "name one or more"),
        (("--arms", "size", "--sizes", "10,-5"), "--sizes -5: a size is a whole number above 0"),
        (("--arms", "size", "--sizes", "0"), "--sizes 0: a size is a whole number above 0"),
        (("--arms", "seed", "--seed-sizes", "1e3"), "--seed-sizes 1e3"),
        (("--arms", "k", "--thresholds", "6"), "--thresholds 6: a threshold is a number"),
        (("--arms", "k", "--thresholds", "nan"), "--thresholds nan"),
    ],
)
def test_wrong_option_is_one_line_with_the_rule(arguments, message):
    result = CliRunner().invoke(app, ["ablate", "tiny", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_plan_of_the_command_line_shows_origins_and_the_recipes_by_hand(tmp_path):
    run = FinishedRun(tmp_path, JUDGE)
    settings = [f"--set={each}" for each in run.overrides]
    result = CliRunner().invoke(
        app, ["ablate", "tiny", "--arms", "size", "--sizes", "5,500", "--plan", "--run", run.folder,
              *settings],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "left out: size-500: the run's selection has 14 pairs" in result.stdout
    assert (
        "  size-5: --set 'settings.last_iteration.selection={method: share, share: 0.25, "
        "max_pairs: 5}'\n"
    ) in result.stdout
    assert "5 stages to compute" in result.stdout  # of size-5: four; of the run: its game
    assert not storage.exists(f"{run.folder}/ablations")


def test_status_of_a_run_leaves_out_the_stages_of_its_arms(tmp_path):
    run = FinishedRun(tmp_path, JUDGE)
    before = status_of(run.folder)
    plan = run.plan(Group.SIZE, sizes=(5,))
    run.finish(plan)
    plan.arms[1].stages[-1].begin(run.folder)
    after = status_of(run.folder)
    assert after == before
    assert after.state is RunState.DONE
