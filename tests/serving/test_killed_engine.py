"""kill -9 while a real engine generates: nothing stays behind, no row is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from humpback_ray import tables
from humpback_ray.rows import Candidate
from tests.support.vllm_pass import NUM_ROWS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_killed_run_leaves_no_engine_and_resumes(tmp_path, model_folder):
    command = [sys.executable, "-m", "tests.support.vllm_pass", str(tmp_path), model_folder]
    rows = tmp_path / "candidates" / "rows"
    driver = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 240
    while tables.num_rows(str(rows)) == 0 and time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended before a row was written"
        time.sleep(0.1)
    # Ray's own agents end by themselves some minutes later; an engine holds a model's memory.
    started = psutil.Process(driver.pid).children(recursive=True)
    engines = [process for process in started if "EngineActor" in " ".join(process.cmdline())]
    assert engines
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    num_saved = tables.num_rows(str(rows))
    assert 0 < num_saved < NUM_ROWS
    _, left_over = psutil.wait_procs(engines, timeout=60)
    assert not left_over

    subprocess.run(command, cwd=ROOT, timeout=300, check=True)
    candidates = tables.read_rows(str(rows), Candidate)
    assert len(candidates) == NUM_ROWS
    assert len({row.segment_id for row in candidates}) == NUM_ROWS


@pytest.mark.long
def test_engine_core_in_a_separate_process_ends_with_its_actor(model_folder):
    # As on GPUs, where the engine's core has its own process.
    variables = {"HUMPBACK_ENGINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
                 "VLLM_CPU_KVCACHE_SPACE": "1"}  # fmt: skip
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.support.waiting_engine", model_folder], cwd=ROOT,
        env=os.environ | variables, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    while "started" not in (line := parent.stdout.readline()):
        assert line, "the engine did not start"
    cores = [
        process
        for process in psutil.Process(parent.pid).children(recursive=True)
        if "EngineCore" in process.name()
    ]
    assert cores
    parent.kill()
    parent.wait()
    _, left_over = psutil.wait_procs(cores, timeout=60)
    assert not left_over
