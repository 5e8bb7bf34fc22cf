"""Workers that come and go while a training runs, on a real cluster of several nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks import raylets
from humpback_ray.training.records import StepRecord
from tests.support.training import (
    PLACEMENT,
    SETTINGS,
    make_base,
    make_examples,
    plain_training,
    run,
)
from tests.support.training import write_examples as write

NOTICE_SECONDS = 20


@pytest.mark.long
@pytest.mark.parametrize("notice", [False, True])
def test_training_continues_with_fewer_workers_after_a_node_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: bool
) -> None:
    """A node leaves, with or without a preemption notice; the other worker continues alone."""
    # Ray Train first tries with as many workers as before, until their start times out.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    base = make_base(tmp_path / "base")
    examples = write(tmp_path / "examples", make_examples(26))
    settings = SETTINGS.model_copy(update={"num_steps": 2000, "learning_rate": 1e-4})
    losses, _, _ = plain_training(base, make_examples(26), settings, last_step=60)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    steps: list[StepRecord] = []
    gone: list[float] = []

    def take(step: StepRecord) -> None:
        steps.append(step)
        if step.step >= 12 and not gone:
            gone.append(time.monotonic())
            if notice:
                raylets.notify(cluster.address, node.node_id, NOTICE_SECONDS)
            else:
                cluster.remove_node(node, allow_graceful=False)
        is_alone = bool(gone) and step.num_workers == 1
        if is_alone and sum(step.num_workers == 1 for step in steps) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    placement = PLACEMENT.model_copy(
        update={"min_workers": 1, "checkpoint_every": 500 if notice else 5}
    )
    try:
        with pytest.raises(SystemExit, match="is saved"):
            run(base, examples, tmp_path, settings=settings, placement=placement, on_step=take)
    finally:
        ray.shutdown()
        cluster.shutdown()

    numbers = [step.step for step in steps]
    first_alone = next(i for i, step in enumerate(steps) if step.num_workers == 1)
    assert first_alone > 11
    assert 1 < numbers[first_alone] <= numbers[first_alone - 1] + 1, "from a checkpoint"
    assert set(numbers) == set(range(1, max(numbers) + 1))
    compared = [step for step in steps if step.step <= len(losses)]
    assert len(compared) >= 20
    for step in compared:
        assert step.loss == pytest.approx(losses[step.step - 1], abs=1e-3)


@pytest.mark.long
def test_training_takes_one_more_worker_when_a_node_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two wanted workers begins alone; the second node comes after some steps."""
    # Ray Train looks once a minute whether there is room for more workers.
    soon = partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=5)
    monkeypatch.setattr(ray.train, "ScalingConfig", soon)
    base = make_base(tmp_path / "base")
    examples = write(tmp_path / "examples", make_examples(26))
    settings = SETTINGS.model_copy(update={"num_steps": 4000, "learning_rate": 1e-4})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    steps: list[StepRecord] = []
    nodes: list[subprocess.Popen[bytes]] = []

    def take(step: StepRecord) -> None:
        steps.append(step)
        if not nodes:
            nodes.append(subprocess.Popen(raylets.node_command(cluster.address)))
        if sum(step.num_workers == 2 for step in steps) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    placement = PLACEMENT.model_copy(update={"min_workers": 1, "checkpoint_every": 20})
    try:
        with pytest.raises(SystemExit, match="is saved"):
            run(base, examples, tmp_path, settings=settings, placement=placement, on_step=take)
    finally:
        ray.shutdown()
        for node in nodes:
            raylets.end(node)
        cluster.shutdown()

    numbers = [step.step for step in steps]
    first_together = next(i for i, step in enumerate(steps) if step.num_workers == 2)
    assert 1 < numbers[first_together] <= numbers[first_together - 1] + 1, "from a checkpoint"
    assert set(numbers) == set(range(1, max(numbers) + 1))
    losses, _, _ = plain_training(base, make_examples(26), settings, last_step=max(numbers))
    for step in steps:
        assert step.loss == pytest.approx(losses[step.step - 1], abs=1e-3)
