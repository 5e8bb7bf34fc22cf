"""Checks before the first stage, on a cluster whose only GPU belongs to somebody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from humpback_ray.config.recipe import load_recipe

pytestmark = pytest.mark.slow
ON_GPUS = ["placement.engine.device=gpu", "placement.engine.min_engines=4",
           "placement.engine.max_engines=4"]  # fmt: skip


@pytest.fixture
def other_process() -> Iterator[ProcessPoolExecutor]:
    """A process for a cluster with other resources than that of the test session."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def prepare_beside_a_busy_gpu(folder: Path) -> dict[str, Any]:
    """Run the seed stage while an actor holds the cluster's GPU; returns what happened."""
    import ray
    from ray.util.state import list_tasks
    from rich.console import Console

    from humpback_ray.cluster import nodes, preflight
    from humpback_ray.execution import runner
    from humpback_ray.pipeline import stages_of

    cluster = ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=True, log_to_driver=False,
        logging_level="ERROR", object_store_memory=100 * 2**20,
    )  # fmt: skip
    try:
        holder = ray.remote(num_gpus=1)(Holder).remote()
        ray.get(holder.ready.remote())
        recipe = load_recipe("tiny", ON_GPUS)
        begun = time.monotonic()
        stages, run = stages_of(recipe), str(folder / "run")
        records = runner.run(stages, recipe, run, Console(quiet=True), only=["seed"])
        seconds = time.monotonic() - begun
        with pytest.raises(ValueError, match="min_engines") as refused:
            preflight.check(recipe, str(folder / "run"), uses_engines=True, uses_workers=False)
        begun = time.monotonic()
        nodes.device_memory(recipe.placement.engine)
        seconds_for_memory = time.monotonic() - begun
        # Workers report their tasks once a second.
        give_up = time.monotonic() + 30
        while True:
            tasks = list_tasks(address=f"http://{cluster.dashboard_url}")
            if "gpus" in {task.name for task in tasks} or time.monotonic() > give_up:
                break
            time.sleep(0.5)
        return {
            "records": records,
            "seconds": seconds,
            "refused": str(refused.value),
            "seconds_for_memory": seconds_for_memory,
            "tasks": [task.name for task in tasks],
            "waiting": [task.name for task in tasks if task.state.startswith("PENDING")],
        }
    finally:
        ray.shutdown()


class Holder:
    """Holds a GPU, as another user's engine would."""

    def ready(self) -> bool:
        return True


def test_preflight_of_a_part_without_engines_waits_for_no_gpu(other_process, tmp_path):
    result = other_process.submit(prepare_beside_a_busy_gpu, tmp_path).result()
    assert result["records"]["seed"].num_rows > 0
    assert result["seconds"] < 30, "the run waited for a device"
    # The same recipe is refused as soon as a stage generates: the first half is not vacuous.
    assert "4 engine(s)" in result["refused"]
    # Nodes answer about busy GPUs too, and no question stays as demand for an autoscaler.
    assert result["seconds_for_memory"] < 30
    assert "gpus" in result["tasks"]
    assert result["waiting"] == []
