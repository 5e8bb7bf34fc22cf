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


def test_full_disk_is_reported_and_the_pass_resumes_with_free_space(tmp_path, model_folder):
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
         sys.executable, "-m", "tests.support.full_disk_pass", json.dumps(arguments)],
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
