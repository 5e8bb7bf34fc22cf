"""The environment of a training worker on CPUs: its share of the cores, and large pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.training.finetune import worker_environment

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NUM_PAGES = 4 * 64 * 2**20 // 4096  # of the four tensors
# As Ray Train does, the script computes in a second thread. It prints the page faults of four
# tensors of 64 MiB, each freed before the next,
# after a first one.
SCRIPT = """
import resource, threading, torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def compute():
    torch.ones(16 * 2**20)
    before = faults()
    for _ in range(4):
        torch.ones(16 * 2**20)
    print(faults() - before)

thread = threading.Thread(target=compute)
thread.start()
thread.join()
"""


def faults(environment: dict[str, str]) -> int:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(finished.stdout)


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
    reason="the kernel gives no large pages",
)
def test_cpu_worker_takes_large_pages_for_large_tensors() -> None:
    environment = worker_environment(TrainingPlacement(device="cpu", num_workers=1))
    assert faults(environment) < NUM_PAGES / 10
    if "[madvise]" in LARGE_PAGES.read_text():
        assert faults({"THP_MEM_ALLOC_ENABLE": "0"}) > NUM_PAGES / 2, "without asking for them"


def test_cpu_workers_share_the_cores_and_gpu_workers_have_no_cpu_settings() -> None:
    one, many = (
        worker_environment(TrainingPlacement(device="cpu", num_workers=number))
        for number in (1, 10_000)
    )
    assert one["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert many["OMP_NUM_THREADS"] == "1"
    assert worker_environment(TrainingPlacement(device="gpu")).keys() == {"TOKENIZERS_PARALLELISM"}
