"""Benchmarks as stages: what they depend on, what they ask a cluster for, what they leave."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.benchmarks import PAPER_TASKS, BenchmarkSettings
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.evaluation import harness
from humpback_ray.execution.stage import Context, Source, Stage
from humpback_ray.rows import BenchmarkScore
from humpback_ray.stages import benchmark
from humpback_ray.stages.benchmark import Benchmark, check_room, resources_of, task_files_source
from tests.support import generation
from tests.support.harness import make_interpreter, placement
from tests.support.harness_files import write_files

REAL = "HUMPBACK_LM_EVAL_PYTHON"  # names an interpreter that has lm_eval
GPU_NODE = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:H100": 1.0}


def stage(model: str = "/models/M_2", tasks=("tides", "dunes"), **changes) -> Benchmark:
    fields = {
        "path": "benchmarks/M_2", "name": "M_2", "model": Source(model, "model"),
        "task_files": None, "settings": BenchmarkSettings(tasks=tasks), "context_length": 256,
        "dtype": "float32",
    }  # fmt: skip
    return Benchmark(**{**fields, **changes})


def context_of(folder: Path, placed: Placement | None = None) -> Context:
    return replace(generation.context(folder), placement=placed or placement())


def declared(*overrides: str) -> list[Stage]:
    loaded = load_recipe("tiny", ["settings.corpus.path=/none", *overrides])
    return [s for s in pipeline.stages_of(loaded) if isinstance(s, Benchmark)]


@pytest.fixture
def task_files(tmp_path) -> Path:
    """The layout of docs/evaluation.md: one file for each task, its data beside it."""
    folder = tmp_path / "task files"
    folder.mkdir()
    (folder / "tides.yaml").write_text(
        "task: tides\n"
        "dataset_path: json\n"
        "dataset_kwargs: {data_files: {validation: tides.jsonl}}\n"
        "validation_split: validation\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "Question: {{question}}\\nAnswer:"\n'
        'doc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
        "metadata: {version: 1.0}\n"
    )
    (folder / "coast.yaml").write_text(
        "group: coast\n"
        "task: [tides]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
        "metadata: {version: 1}\n"
    )
    rows = [
        {"question": f"Where does bay {n} lie?", "choices": ["north", "south"], "answer": n % 2}
        for n in range(6)
    ]
    (folder / "tides.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_no_benchmarks_unless_the_recipe_names_them():
    assert declared() == []


def test_benchmarks_of_a_recipe_are_the_papers_of_every_model():
    stages = declared("settings.evaluation.benchmarks={}")
    assert [s.path for s in stages] == [
        "benchmarks/base", "benchmarks/M_0", "benchmarks/M_1", "benchmarks/M_2",
    ]  # fmt: skip
    assert stages[0].settings.tasks == PAPER_TASKS
    assert sum(task.startswith("crows_pairs_english_") for task in PAPER_TASKS) == 9


def test_limit_and_tasks_change_the_fingerprint_and_their_order_does_not():
    of = {tasks: stage(tasks=tasks).fingerprint for tasks in [("a", "b"), ("b", "a"), ("a",)]}
    assert of["a", "b"] == of["b", "a"] != of["a",]
    limited = BenchmarkSettings(tasks=("a", "b"), limit=9)
    assert stage(settings=limited).fingerprint != of["a", "b"]


def test_content_of_task_files_changes_the_fingerprint_and_their_place_does_not(task_files):
    before = stage(task_files=task_files_source(str(task_files)))
    moved = task_files.rename(task_files.with_name("moved"))
    after = stage(task_files=task_files_source(str(moved)))
    assert before.fingerprint == after.fingerprint
    for name in ("tides.jsonl", "utils.py", "_default_template_yaml", "README.md"):
        last = stage(task_files=task_files_source(str(moved))).fingerprint
        (moved / name).write_text("other\n")
        assert stage(task_files=task_files_source(str(moved))).fingerprint != last
    (moved / "__pycache__").mkdir()
    (moved / "__pycache__/utils.cpython-311.pyc").write_bytes(b"left by the harness")
    last = stage(task_files=task_files_source(str(moved))).fingerprint
    shutil.rmtree(moved / "__pycache__")
    assert stage(task_files=task_files_source(str(moved))).fingerprint == last


@pytest.mark.parametrize("tasks", ["[]", "['*']", "[a/b.yaml]", "['a,b']"])
def test_tasks_that_are_no_names_are_refused(tasks):
    with pytest.raises(UserError, match=r"settings\.evaluation\.benchmarks\.tasks"):
        declared(f"settings.evaluation.benchmarks.tasks={tasks}")


def test_missing_folder_of_task_files_is_a_problem_of_the_stages(tmp_path, task_files):
    nothing = task_files_source(str(tmp_path / "none"))
    assert "settings.evaluation.benchmarks.task_files" in nothing.problem
    (task_files / "tides.yaml").unlink()
    (task_files / "coast.yaml").unlink()
    assert "no folder with task files" in task_files_source(str(task_files)).problem
    assert "no folder with task files" in task_files_source(str(task_files / "*.jsonl")).problem


def test_task_file_in_place_of_a_folder_is_a_problem(task_files):
    found = task_files_source(str(task_files / "tides.yaml"))
    assert "no folder with task files" in found.problem


def test_figures_and_scores_come_from_the_harness_files(tmp_path):
    place = context_of(tmp_path / "M_2")
    scores = {"tides": [{"acc": 1.0}, {"acc": 0.0}], "dunes": [{"acc": 1.0}] * 3}
    write_files(tmp_path / "M_2", scores, {"coast": ["tides", "dunes"]}, num_left_out=4)
    result = stage().result(place, "0.4.13")
    assert (result.num_rows, result.outcomes) == (13, {"answered": 5, "beyond_limit": 8})
    assert result.figures["lm_eval_version"] == "0.4.13"
    assert [task["task"] for task in result.figures["tasks"]] == ["coast", "tides", "dunes"]
    assert result.figures["tasks"][0]["metrics"][0]["value"] == pytest.approx(0.8)
    rows = tables.read_rows(str(tmp_path / "M_2" / benchmark.SCORES), BenchmarkScore)
    assert sum(row.value for row in rows) == 4
    json.dumps(result.figures, allow_nan=False)


def test_node_gets_the_model_its_revision_and_the_task_files(tmp_path, task_files):
    files = task_files_source(str(task_files))
    of_hub = stage(model="org/base", task_files=files)
    of_hub = replace(of_hub, model=replace(of_hub.model, revision="v2"))
    run = of_hub.harness_run(context_of(tmp_path / "M_2"))
    assert (run.model, run.revision, run.task_files) == ("org/base", "v2", str(task_files))
    assert run.output == str(tmp_path / "M_2")
    trained = stage(model="")
    trained = replace(trained, model=replace(trained, path="iter-2/model"))
    run = trained.harness_run(context_of(tmp_path / "M_2"))
    assert (run.model, run.revision, run.task_files) == (f"{tmp_path}/iter-2/model", None, None)


def test_missing_harness_stops_a_run_before_any_stage(tmp_path):
    bad = placement(python=str(tmp_path / "no-python"))
    with pytest.raises(UserError, match="cannot be started"):
        stage().check(bad)


# --- devices --------------------------------------------------------------------------------------


def test_task_takes_the_devices_of_one_engine():
    engine = EnginePlacement(device="gpu", tensor_parallel_size=2, accelerator_type="H100")
    assert resources_of(engine, 2) == {
        "num_cpus": 2, "num_gpus": 2, "resources": {"accelerator_type:H100": 0.001},
    }  # fmt: skip
    assert resources_of(EnginePlacement(device="cpu"), 1) == {"num_cpus": 1}


def test_devices_that_no_single_node_has_are_refused():
    engine = EnginePlacement(device="gpu", tensor_parallel_size=8, across_nodes=True)
    with pytest.raises(UserError, match=r"8 x .*GPU 1.* has 2 x .*GPU 4"):
        check_room(engine, 8, [GPU_NODE, GPU_NODE])
    check_room(engine, 4, [{"CPU": 2.0}, GPU_NODE])


@pytest.mark.slow
def test_failure_on_a_node_is_the_users_line_on_the_driver(tmp_path, ray_cluster):
    placed = placement(make_interpreter(tmp_path))
    broken = stage(tasks=("broken",))
    with pytest.raises(UserError, match="exit code 1 on M_2: ConnectionError: no hub"):
        broken.run(context_of(tmp_path / "M_2", placed))
    assert storage.exists(str(tmp_path / "M_2" / harness.LOG))


@pytest.mark.long
@pytest.mark.skipif(not os.environ.get(REAL), reason=f"{REAL} names no Python with lm_eval")
def test_harness_asks_a_model_local_tasks(tmp_path, task_files, model_folder, ray_cluster):
    placed = placement(os.environ[REAL])
    model = str(shutil.copytree(model_folder, tmp_path / "a model, c=1"))
    asked = stage(model, ("coast",), task_files=task_files_source(str(task_files)))
    asked.check(placed)
    with pytest.raises(UserError, match="Tasks not found: skerries"):
        stage(tasks=("skerries",)).check(placed)
    result = asked.run(context_of(tmp_path / "M_2", placed))
    assert (result.num_rows, result.outcomes) == (6, {"answered": 6})
    assert result.figures["backend"] == "hf"
    coast, tides = result.figures["tasks"]
    assert (coast["task"], tides["task"], tides["group"]) == ("coast", "tides", "coast")
    rows = tables.read_rows(str(tmp_path / "M_2" / benchmark.SCORES), BenchmarkScore)
    of_acc = [row.value for row in rows if row.metric == "acc"]
    assert len(of_acc) == 6
    assert coast["metrics"][0]["value"] == pytest.approx(sum(of_acc) / 6)
