"""kill -9 of the driver while a real engine generates: nothing stays behind, no row is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from humpback_ray import tables
from humpback_ray.records import Candidate

pytestmark = pytest.mark.slow
NUM_ROWS = 300

PROGRAM = f"""
import sys
from pathlib import Path
import ray
from humpback_ray import tables
from humpback_ray.config import SamplingSettings
from humpback_ray.records import Segment
from humpback_ray.stages import augment
from humpback_ray.engines.vllm_generate import Model
from tests.stages.test_generation_stages import context, segment
ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR")
folder, model = Path(sys.argv[1]), sys.argv[2]
segments = [segment(n, f"A text about topic {{n}}.") for n in range({NUM_ROWS})]
tables.write_rows(str(folder / "segments"), segments, Segment)
augment.run(
    context(folder / "candidates"), segments=str(folder / "segments"),
    backward_model=Model(model, 1024, "float32"),
    tag="A tag.", sampling=SamplingSettings(max_tokens=300), random_seed=0,
)
ray.shutdown()
"""


def test_a_killed_run_leaves_no_engine_and_resumes(tmp_path, model_folder):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), model_folder]
    rows = tmp_path / "candidates" / "rows"
    driver = subprocess.Popen(command, cwd=root)
    deadline = time.monotonic() + 240
    while tables.num_rows(str(rows)) == 0 and time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended before a row was written"
        time.sleep(0.1)
    # Ray's own agents end by themselves some minutes later; an engine holds a model's memory.
    started = psutil.Process(driver.pid).children(recursive=True)
    engines = [process for process in started if "EngineCore" in process.name()]
    assert engines
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    num_saved = tables.num_rows(str(rows))
    assert 0 < num_saved < NUM_ROWS
    _, left_over = psutil.wait_procs(engines, timeout=60)
    assert not left_over

    subprocess.run(command, cwd=root, timeout=300, check=True)
    candidates = tables.read_rows(str(rows), Candidate)
    assert len(candidates) == NUM_ROWS
    assert len({row.segment_id for row in candidates}) == NUM_ROWS
