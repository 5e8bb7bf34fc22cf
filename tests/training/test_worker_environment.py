"""The environment of a training worker on CPUs: its share of the cores, and a heap it keeps."""

from __future__ import annotations

import os
import subprocess
import sys

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.training.finetune import worker_environment
from tests.support.tensor_faults import NUM_PAGES


def faults(environment: dict[str, str]) -> int:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.tensor_faults"],
        env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(finished.stdout)


def test_cpu_worker_uses_the_memory_of_freed_tensors_again() -> None:
    environment = worker_environment(TrainingPlacement(device="cpu", num_workers=1))
    assert faults({}) > 0.8 * NUM_PAGES
    assert faults(environment) < 0.5 * NUM_PAGES


def test_cpu_workers_share_the_cores_and_gpu_workers_have_no_cpu_settings() -> None:
    one, many = (
        worker_environment(TrainingPlacement(device="cpu", num_workers=number))
        for number in (1, 10_000)
    )
    assert one["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert many["OMP_NUM_THREADS"] == "1"
    assert worker_environment(TrainingPlacement(device="gpu")).keys() == {"TOKENIZERS_PARALLELISM"}
