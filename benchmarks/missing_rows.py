"""Driver's peak memory while it finds the missing rows among 50 million / among 5 million.

The rows are ids in Parquet files, 25,000 to a shard, without engine or text. The answers are those
of a pass that was killed after nine tenths: as many shards are finished, each one file, and four
shards are in work, half answered, with a file for each batch. A driver in a separate process counts
the saved rows (`RowFolders.state`) and reads every missing row in batches (`RowFolders.missing`),
as a pass does at its start. The driver may hold names of files and no ids. The tables also have the
peak of the largest task process, which must not grow either, and what the driver and its tasks read
before the first row, through system calls, in MiB.

`--unmerged` lays the finished shards out as files of batches, as passes left them before they
merged their files.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import harness
import memory
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from humpback_ray import storage
from humpback_ray.serving.missing_rows import RowFolders, shard_key

NUM_ROWS = 50_000_000
ROWS_PER_SHARD = 25_000
ROWS_PER_BATCH = 256
NUM_IN_WORK = 4  # shards, half answered


def write_rows(folders: RowFolders, num_rows: int, is_merged: bool) -> int:
    """Write the source, and the answers of a pass that was killed; returns the missing rows."""
    num_missing = 0
    num_finished = num_rows * 9 // 10 // ROWS_PER_SHARD
    for folder in (folders.source, folders.target):
        Path(folder).mkdir(parents=True)
    for first in range(0, num_rows, ROWS_PER_SHARD):
        numbers = np.arange(first, min(first + ROWS_PER_SHARD, num_rows))
        ids = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), 16, "0")
        rows, name = pa.table({"row_id": ids}), f"part-{first:010}"
        pq.write_table(rows, f"{folders.source}/{name}.parquet")
        key, shard = shard_key(f"{name}.parquet"), first // ROWS_PER_SHARD
        if shard < num_finished and is_merged:
            pq.write_table(rows, f"{folders.target}/{key}-all-{len(rows)}.parquet")
            continue
        num_answered = 0
        if shard < num_finished:
            num_answered = len(rows)
        elif shard < num_finished + NUM_IN_WORK:
            num_answered = len(rows) // 2
        num_missing += len(rows) - num_answered
        for start in range(0, num_answered, ROWS_PER_BATCH):
            folders.save_shard(key, rows.slice(start, min(ROWS_PER_BATCH, num_answered - start)))
    return num_missing


def drive(folders: RowFolders) -> Generator[dict[str, Any], Any, None]:
    """A driver in a separate process, which yields counts, seconds, and peaks of memory."""
    import ray

    memory.start_ray()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    yield {}
    tasks = memory.TaskMemory()
    with tasks.watched():
        # The processes of tasks read their libraries once they start.
        wait = ray.remote(lambda: time.sleep(4 * memory.POLL_SECONDS))
        ray.get([wait.remote() for _ in range(2)])
        num_read = tasks.num_read()
        state_seconds, state = harness.timed(folders.state)
        time.sleep(2 * memory.POLL_SECONDS)
        num_read = tasks.num_read() - num_read
        missing_seconds, num_missing = harness.timed(lambda: count_missing(folders))
    yield {
        "value": harness.peak_memory(),
        "task_mib": tasks.peak,
        "mib_read": num_read / 2**20,
        "num_wanted": state.num_wanted,
        "num_missing": state.num_missing,
        "num_given": num_missing,
        "state_seconds": state_seconds,
        "missing_seconds": missing_seconds,
    }
    ray.shutdown()


def count_missing(folders: RowFolders) -> int:
    """The number of missing rows, read in batches as a pass does."""
    rows = folders.missing(ROWS_PER_BATCH)
    assert rows is not None
    return sum(bundle.num_rows() or 0 for bundle in rows.iter_internal_ref_bundles())


def measure(folder: Path, num_rows: int, is_merged: bool) -> dict[str, Any]:
    """Figures of one size; its files are deleted."""
    folders = RowFolders(str(folder / "source"), str(folder / "target"), "row_id")
    write_seconds, num_missing = harness.timed(lambda: write_rows(folders, num_rows, is_merged))
    num_files = len(storage.names(folders.source)) + len(storage.names(folders.target))
    figures = memory.figures_of(drive, folders)
    shutil.rmtree(folder)
    assert figures["num_wanted"] == num_rows
    assert figures["num_missing"] == figures["num_given"] == num_missing
    return figures | {"num_files": num_files, "write_seconds": write_seconds}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--unmerged", action="store_true", help="a file for each batch")
    options = parser.parse_args()
    over, under = (f"{number:,} rows" for number in (options.rows, options.rows // 10))
    comparison, tasks = memory.of_driver(over, under), memory.of_largest_task(over, under)
    with harness.scratch_folder() as folder:
        for side, num_rows in ((under, options.rows // 10), (over, options.rows)):
            figures = measure(folder / f"{num_rows}", num_rows, not options.unmerged)
            comparison.add(side, **figures)
            tasks.add(side, value=figures["task_mib"])
    harness.finish([tasks, comparison], options.json)


if __name__ == "__main__":
    main()
