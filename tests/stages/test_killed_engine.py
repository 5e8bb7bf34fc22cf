"""kill -9 of the driver while a real engine generates: nothing stays behind, no row is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from humpback_ray import tables
from humpback_ray.records import Candidate

pytestmark = pytest.mark.slow
MARK = "HUMPBACK_TEST_RUN"
NUM_ROWS = 300

PROGRAM = f"""
import sys
from pathlib import Path
import ray
from humpback_ray import tables
from humpback_ray.config import SamplingSettings
from humpback_ray.records import Segment
from humpback_ray.stages import augment
from tests.stages.test_generation_stages import GENERATION, context, segment
ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR")
folder, model = Path(sys.argv[1]), sys.argv[2]
segments = [segment(n, f"A text about topic {{n}}.") for n in range({NUM_ROWS})]
tables.write_rows(str(folder / "segments"), segments, Segment)
augment.run(
    context(folder / "candidates"), segments=str(folder / "segments"), backward_model=model,
    tag="A tag.", sampling=SamplingSettings(max_tokens=300), **GENERATION,
)
ray.shutdown()
"""


def processes_with(mark: str) -> dict[int, str]:
    """Living processes that carry the mark in their environment, by pid."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended while we looked
    return found


def test_a_killed_run_leaves_no_engine_and_resumes(tmp_path, model_folder):
    mark = uuid.uuid4().hex
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), model_folder]
    environment = {**os.environ, MARK: mark}
    rows = tmp_path / "candidates" / "rows"
    driver = subprocess.Popen(command, cwd=root, env=environment)
    deadline = time.monotonic() + 240
    while tables.num_rows(str(rows)) == 0 and time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended before a row was written"
        time.sleep(0.1)
    assert any("EngineCore" in name for name in processes_with(mark).values())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    num_saved = tables.num_rows(str(rows))
    assert 0 < num_saved < NUM_ROWS
    deadline = time.monotonic() + 60
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not processes_with(mark)

    subprocess.run(command, cwd=root, env=environment, timeout=300, check=True)
    candidates = tables.read_rows(str(rows), Candidate)
    assert len(candidates) == NUM_ROWS
    assert len({row.segment_id for row in candidates}) == NUM_ROWS
