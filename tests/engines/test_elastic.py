"""Workers that come and go while a training runs, on a real cluster of several nodes."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.cluster_utils import Cluster

from benchmarks import raylets

from .test_training import PLACEMENT, SETTINGS, make_base, make_examples, plain_training, run
from .test_training import write_examples as write

NUM_COMPARED = 60  # steps
# Ray Train first tries with as many workers as before, until their start times out; and it looks
# for room for more once in a while.
SECONDS_TO_START, SECONDS_BETWEEN_LOOKS = "15", 5.0


@pytest.mark.long
@pytest.mark.parametrize("notice", [None, 30])
def test_a_training_goes_on_with_fewer_workers_and_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: int | None
) -> None:
    """A node goes, with or without a notice of so many seconds; later another one comes."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START)
    look = {"elastic_resize_monitor_interval_s": SECONDS_BETWEEN_LOOKS}
    monkeypatch.setattr(ray.train, "ScalingConfig", partial(ray.train.ScalingConfig, **look))
    base = make_base(tmp_path / "base")
    examples = write(tmp_path / "examples", make_examples(26))
    settings = SETTINGS.model_copy(update={"num_steps": 2000, "learning_rate": 1e-4})
    losses, _, _ = plain_training(
        base, make_examples(26), settings, last_step=NUM_COMPARED
    )  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    steps: list[dict[str, Any]] = []
    done: list[str] = []

    def take(step: dict[str, Any]) -> None:
        steps.append(step)
        is_alone = step["num_workers"] == 1
        if not done and step["step"] >= 12:
            done.append("gone")
            if notice:
                raylets.notify(cluster.address, node.node_id, notice)
            else:
                cluster.remove_node(node, allow_graceful=False)
        elif done == ["gone"] and is_alone and sum(s["num_workers"] == 1 for s in steps) == 20:
            done.append("back")
            if notice:  # the time of the notice is over
                cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1, wait=False)
        elif done == ["gone", "back"] and not is_alone:
            done.append("stopped")
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

    workers = [step["num_workers"] for step in steps]
    first_alone, first_again = workers.index(1), len(workers) - workers[::-1].index(1)
    assert first_alone > 11
    assert set(workers[first_alone:first_again]) == {1}
    assert set(workers[first_again:]) == {2}
    numbers = [step["step"] for step in steps]
    for first in (first_alone, first_again):
        assert 1 < numbers[first] <= numbers[first - 1] + 1, "from a checkpoint"
    assert set(numbers) == set(range(1, max(numbers) + 1))
    compared = [step for step in steps if step["step"] <= len(losses)]
    assert len(compared) >= 20
    for step in compared:
        assert step["loss"] == pytest.approx(losses[step["step"] - 1], abs=1e-3)
