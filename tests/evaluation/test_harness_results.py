"""Figures and scores out of lm-evaluation-harness's files."""

from __future__ import annotations

import json

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation import harness_results
from tests.support.harness_files import write_files

GROUPS = {"coast": ["bays", "dunes"], "bays": ["north", "south"]}
SCORES = {
    "north": [{"acc": 1.0, "acc_norm": 0.0}, {"acc": 0.0, "acc_norm": 0.0}],
    "south": [{"acc": 1.0, "acc_norm": 1.0}] * 3,
    "dunes": [{"acc": 0.0, "acc_norm": 1.0}] * 3 + [{"acc": 1.0, "acc_norm": 1.0}],
    "crows": [{"likelihood_diff": 2.5, "pct_stereotype": 1.0}] * 2,
}


@pytest.fixture
def folder(tmp_path) -> str:
    write_files(tmp_path, SCORES, GROUPS, num_left_out=5)
    return str(tmp_path)


def change_results(folder, change) -> None:
    (path,) = folder.glob("results_*")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_groups_stand_before_their_parts_with_all_their_questions(folder):
    found = harness_results.read_results(folder)
    shown = {task.task: (task.group, task.n, task.num_questions) for task in found.tasks}
    assert shown == {
        "crows": ("", 2, 7), "coast": ("", 9, 24), "bays": ("coast", 5, 15),
        "north": ("bays", 2, 7), "south": ("bays", 3, 8), "dunes": ("coast", 4, 9),
    }  # fmt: skip
    assert list(shown) == ["crows", "coast", "bays", "north", "south", "dunes"]
    assert (found.num_answered, found.num_questions) == (11, 31)
    assert found.backend == "hf"


def test_metrics_have_stderr_and_direction(folder):
    tasks = {task.task: task for task in harness_results.read_results(folder).tasks}
    acc, normed = tasks["dunes"].metrics
    assert (acc.metric, acc.value, acc.higher_is_better) == ("acc", 0.25, True)
    assert acc.stderr == pytest.approx(0.25)
    assert (normed.metric, normed.value) == ("acc_norm", 1.0)
    assert [m.metric for m in tasks["coast"].metrics] == ["acc"]
    assert tasks["coast"].metrics[0].value == pytest.approx(5 / 9)
    assert [m.higher_is_better for m in tasks["crows"].metrics] == [False, False]


def test_figures_that_are_no_finite_numbers_are_none(tmp_path):
    write_files(tmp_path, {"north": [{"acc": 1.0}]})  # one question: stderr is "N/A"
    change_results(tmp_path, lambda c: c["results"]["north"].update({"acc,none": float("nan")}))
    (task,) = harness_results.read_results(str(tmp_path)).tasks
    assert (task.metrics[0].value, task.metrics[0].stderr) == (None, None)


def test_filters_of_one_metric_are_two_metrics(tmp_path):
    write_files(tmp_path, {"north": [{"acc": 1.0}]})
    more = {"exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1, "exact_match,loose": 0.75}
    change_results(tmp_path, lambda c: c["results"]["north"].update(more))
    (task,) = harness_results.read_results(str(tmp_path)).tasks
    shown = [(m.metric, m.value, m.stderr) for m in task.metrics]
    assert shown[1:] == [("exact_match,strict", 0.5, 0.1), ("exact_match,loose", 0.75, None)]


def test_every_question_has_a_score_by_each_metric(folder):
    scores = list(harness_results.read_scores(folder))
    assert len(scores) == 2 * (2 + 3 + 4 + 2)
    first = next(score for score in scores if score.task == "north")
    assert (first.score_id, first.doc_id, first.value) == ("north/000000/acc", 0, 1.0)
    of_south = [s for s in scores if (s.task, s.metric) == ("south", "acc")]
    assert len({score.question for score in of_south}) == 3


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="written no results_"):
        harness_results.read_results(str(tmp_path))


@pytest.mark.parametrize("part", ["group_subtasks", "n-samples", "results", "config"])
def test_results_of_another_format_are_refused(tmp_path, part):
    write_files(tmp_path, SCORES)
    change_results(tmp_path, lambda content: content.pop(part))
    with pytest.raises(UserError, match=rf"another format than lm_eval 0.4.13's.*{part}"):
        harness_results.read_results(str(tmp_path))
