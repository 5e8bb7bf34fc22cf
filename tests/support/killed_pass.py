"""A pass in a separate process, for tests that kill it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from humpback_ray import storage, tables
from humpback_ray.rows import Candidate
from tests.support import chaos

NUM_ENGINES, ROWS_PER_BATCH, NUM_CONCURRENT = 2, 8, 2
PLACEMENT = {
    "min_engines": 1, "max_engines": NUM_ENGINES, "rows_per_batch": ROWS_PER_BATCH,
    "max_concurrent_batches": NUM_CONCURRENT, "max_num_seqs": 8, "stall_seconds": 5.0,
}  # fmt: skip
SECONDS = 240  # after which a pass counts as hanging


class Run:
    """A pass in a separate process on a cluster of several nodes, on a host if one is given."""

    def __init__(self, cluster, folder: Path, model: str, *, host=None, **placement) -> None:
        self.cluster, self.folder = cluster, folder
        self._command = [
            *(host.inside if host else []), sys.executable, "-m", "tests.support.chaos",
            str(folder), model, cluster.address, json.dumps(PLACEMENT | placement),
        ]  # fmt: skip
        (folder / "counter").touch()
        self.start()

    def start(self) -> None:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        self.driver = subprocess.Popen(
            self._command, cwd=Path(__file__).parents[2], stdout=log, stderr=log
        )

    @property
    def num_computed(self) -> int:
        return (self.folder / "counter").stat().st_size

    def wait_for(self, num_computed: int) -> bool:
        """Wait for so many computed rows; True if the pass still runs then."""
        return self.wait(lambda: self.num_computed >= num_computed)

    def wait(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + SECONDS
        while not condition():
            if self.driver.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.05)
        return self.driver.poll() is None

    def tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def finish(self) -> None:
        try:
            assert self.driver.wait(timeout=SECONDS) == 0, self.tail()
        finally:
            self.driver.kill()


def check_rows(run: Run, num_kills: int) -> None:
    """Every row once, in a file for each of the source, and few computed twice."""
    names = storage.names(str(run.folder / "candidates" / "rows"))
    rows_per_file = chaos.NUM_ROWS // chaos.NUM_FILES
    assert {name.partition("-")[2] for name in names} == {f"all-{rows_per_file}.parquet"}
    assert len(names) == chaos.NUM_FILES
    rows = tables.read_rows(str(run.folder / "candidates" / "rows"), Candidate)
    times = Counter(row.segment_id for row in rows)
    assert times == Counter(each.segment_id for each in chaos.segments())
    in_flight = NUM_ENGINES * NUM_CONCURRENT * ROWS_PER_BATCH
    assert run.num_computed <= 1.05 * chaos.NUM_ROWS + num_kills * in_flight
