"""A disk that fills while a pass writes its rows, in a mount namespace with a small file system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
NUM_ROWS = 240
LEFT_BYTES = 100 * 1024  # room for some of the thirty files

TWO_ATTEMPTS = """
import json, os, sys
from pathlib import Path
import ray
from humpback_ray import tables
from tests.stages.test_generation import augmented, segment
disk, counter, model, left, num_rows, engine = json.loads(sys.argv[1])
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR", object_store_memory=100 * 2**20)
folder, filler = Path(disk, "run"), Path(disk, "filler")
folder.mkdir()
segments = [segment(number, f"A text about topic {number}.") for number in range(num_rows)]


def attempt():
    error = ""
    try:
        augmented(folder, segments, model, engine=engine, counter=counter)
    except ValueError as found:
        error = str(found)
    partial = [path.name for path in (folder / "candidates").rglob("*partial*")]
    rows = str(folder / "candidates" / "rows")
    print("ATTEMPT", json.dumps([error, partial, tables.assert_unique(rows, "candidate_id"),
                                 os.path.getsize(counter)]), flush=True)


with filler.open("wb") as file:
    free = os.statvfs(disk)
    os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)
attempt()
filler.unlink()
attempt()
"""


def test_a_disk_that_fills_is_said_and_with_room_made_the_pass_goes_on(tmp_path, model_folder):
    namespace = ["unshare", *(["--map-root-user"] if os.getuid() else []), "--mount"]
    if subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    disk, counter = tmp_path / "disk", tmp_path / "counter"
    disk.mkdir()
    counter.touch()
    engine = {"rows_per_batch": 8, "max_engines": 1}
    arguments = [str(disk), str(counter), model_folder, LEFT_BYTES, NUM_ROWS, engine]
    found = subprocess.run(
        [*namespace, "sh", "-c", f'mount -t tmpfs -o size=8m tmpfs {disk} && exec "$@"', "sh",
         sys.executable, "-c", TWO_ATTEMPTS, json.dumps(arguments)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    lines = [line for line in found.stdout.splitlines() if line.startswith("ATTEMPT")]
    full, after = (json.loads(line.removeprefix("ATTEMPT")) for line in lines)
    error, partial, num_saved, num_first = full
    assert f"cannot write to {disk}/run/candidates: No space left on device" in error
    assert "\n" not in error
    assert partial == [], "half of a file keeps room"
    assert 0 < num_saved < NUM_ROWS
    assert num_first <= NUM_ROWS, "where nothing can be written, the pass is not tried again"
    num_missing = NUM_ROWS - num_saved
    error, partial, num_saved, num_computed = after
    assert (error, partial, num_saved) == ("", [], NUM_ROWS)
    assert num_computed - num_first == num_missing
