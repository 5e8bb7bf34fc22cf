"""Steps of a training in TensorBoard's files, in W&B offline and in MLflow's folder store.

The two packages are extras: without one its tests are left out.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.tracking import MlflowPlacement, TrackingPlacement, WandbPlacement
from humpback_ray.errors import UserError
from humpback_ray.execution.trackers import Boards, TrackedRun, check_trackers, tracked_run
from humpback_ray.pipeline import stages_of
from tests.support.generation import context

STEPS = [{"step": n, "loss": 3.0 / n, "learning_rate": 1e-4} for n in range(1, 6)]
SETTINGS = {"learning_rate": 1e-3, "batch_size": 8}


@pytest.fixture
def run(tmp_path) -> TrackedRun:
    return TrackedRun("0123456789abcdef", "demo", "iter-1/model", SETTINGS, str(tmp_path))


def train(run: TrackedRun, tracking: TrackingPlacement, steps=STEPS, dies: bool = False) -> list:
    """Add steps; returns the notes."""
    notes: list[str] = []
    with Boards(f"{run.folder}/tensorboard", tracking, run, notes.append) as boards:
        for step in steps:
            boards.add(step)
        if dies:
            raise KeyboardInterrupt
    return notes


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """A client of a folder store, and the placement that names it."""
    package = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = str(tmp_path / "mlruns")
    placement = TrackingPlacement(mlflow=MlflowPlacement(uri=uri, experiment="tides"))
    return package.MlflowClient(tracking_uri=uri), placement


def only_run(client):
    experiment = client.get_experiment_by_name("tides")
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def test_mlflow_has_every_step_with_settings_and_state(run, mlflow):
    client, placement = mlflow
    assert train(run, placement) == []
    found = only_run(client)
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (step["step"], step["loss"]) for step in STEPS
    ]
    assert (found.info.run_name, found.info.status) == ("demo/iter-1/model", "FINISHED")
    assert found.data.params == {"learning_rate": "0.001", "batch_size": "8"}


def test_training_that_is_killed_and_resumed_is_one_run_of_mlflow(run, mlflow):
    client, placement = mlflow
    with pytest.raises(KeyboardInterrupt):
        train(run, placement, STEPS[:3], dies=True)
    assert only_run(client).info.status == "FAILED"
    train(run, placement, STEPS[2:])
    found = only_run(client)
    assert found.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "loss")]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5]


def test_more_figures_than_a_request_may_have_all_reach_mlflow(run, mlflow):
    client, placement = mlflow
    steps = [{"step": n, "loss": 1.0, "mfu": 0.3} for n in range(1, 801)]
    train(run, placement, steps)
    history = client.get_metric_history(only_run(client).info.run_id, "mfu")
    assert len(history) == 800


def test_mlflow_that_fails_in_between_is_noted_once_and_ends_no_training(run, mlflow, tmp_path):
    client, placement = mlflow
    notes: list[str] = []
    with Boards(f"{run.folder}/tensorboard", placement, run, notes.append) as boards:
        client.delete_run(only_run(client).info.run_id)
        for step in STEPS:
            boards.add(step)
    assert [note.partition(":")[0] for note in notes] == [
        "MLflow gets no more figures of this stage"
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_mlflow_server_that_does_not_answer_is_refused_before_any_work(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    placement = TrackingPlacement(mlflow=MlflowPlacement(uri="http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"MLflow cannot be used .*127\.0\.0\.1"):
        check_trackers(placement)


@pytest.fixture
def wandb(monkeypatch):
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return package


def test_wandb_offline_has_every_step_with_settings(run, wandb, tmp_path):
    steps = [{"step": n, "loss": 0.12345 + n / 1e6} for n in range(1, 6)]
    assert train(run, TrackingPlacement(wandb=WandbPlacement(project="tides")), steps) == []
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-0123456789abcdef.wandb")
    content = file.read_bytes()
    losses = [str(step["loss"]).encode() for step in steps]
    for part in (b"tides", b"demo/iter-1/model", b"learning_rate", b"batch_size", *losses):
        assert part in content


def test_wandb_without_a_key_is_refused_before_any_work(wandb, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="W&B has no key"):
        check_trackers(TrackingPlacement(wandb=WandbPlacement()))


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_package_that_is_missing_is_one_line_before_any_work(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.exceptions", None)
    recipe = load_recipe("tiny", [f"placement.tracking.{name}={{}}"])
    finetune = next(s for s in stages_of(recipe) if s.path == "iter-1/model")
    with pytest.raises(UserError, match=f"pip install {package} "):
        finetune.check(recipe.placement)


def test_recipe_without_trackers_imports_neither_package(monkeypatch, run):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    placement = load_recipe("tiny").placement.tracking
    check_trackers(placement)
    assert train(run, placement) == []


def test_tracked_run_is_the_same_when_resumed_and_another_with_other_settings(tmp_path):
    def tracked(*overrides: str) -> TrackedRun:
        stages = stages_of(load_recipe("tiny", list(overrides)))
        stage = next(s for s in stages if s.path == "iter-1/model")
        place = replace(context(tmp_path / "x"), run_folder=str(tmp_path), stage=stage.path)
        return tracked_run(place, stage)

    first = tracked()
    assert first == tracked("placement.training.num_workers=2", "placement.tracking.wandb={}")
    other = tracked("settings.forward_training.num_steps=7")
    assert first.id != other.id
    assert other.settings["num_steps"] == 7
    assert first.name == f"{Path(tmp_path).name}/iter-1/model"


def test_password_in_the_uri_is_refused_without_showing_it():
    uri = "https://ann:secret@host"
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        load_recipe("tiny", [f"placement.tracking.mlflow={{uri: '{uri}'}}"])
    assert "secret" not in str(refused.value)
