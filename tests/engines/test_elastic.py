"""Workers that come and go while a training runs, on a real cluster of several nodes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks import raylets

from .test_training import PLACEMENT, SETTINGS, make_base, make_examples, plain_training, run
from .test_training import write_examples as write

NOTICE_SECONDS = 20


@pytest.mark.long
@pytest.mark.parametrize("notice", [False, True])
def test_a_training_goes_on_with_fewer_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: bool
) -> None:
    """A node goes, with or without a notice before: the other worker goes on alone."""
    # Ray Train first tries with as many workers as before, until their start times out.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    base = make_base(tmp_path / "base")
    examples = write(tmp_path / "examples", make_examples(26))
    settings = SETTINGS.model_copy(update={"num_steps": 2000, "learning_rate": 1e-4})
    losses, _, _ = plain_training(base, make_examples(26), settings, last_step=60)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    steps: list[dict[str, Any]] = []
    gone: list[float] = []

    def take(step: dict[str, Any]) -> None:
        steps.append(step)
        if step["step"] >= 12 and not gone:
            gone.append(time.monotonic())
            if notice:
                raylets.notify(cluster.address, node.node_id, NOTICE_SECONDS)
            else:
                cluster.remove_node(node, allow_graceful=False)
        is_alone = bool(gone) and step["num_workers"] == 1
        if is_alone and sum(step["num_workers"] == 1 for step in steps) == 20:
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

    numbers = [step["step"] for step in steps]
    first_alone = next(i for i, step in enumerate(steps) if step["num_workers"] == 1)
    assert first_alone > 11
    assert 1 < numbers[first_alone] <= numbers[first_alone - 1] + 1, "from a checkpoint"
    assert set(numbers) == set(range(1, max(numbers) + 1))
    compared = [step for step in steps if step["step"] <= len(losses)]
    assert len(compared) >= 20
    for step in compared:
        assert step["loss"] == pytest.approx(losses[step["step"] - 1], abs=1e-3)
