"""Seconds and peak memory of `humpback report` over 500,000 pairs / over 50,000.

Each side is a whole finished run, made of made-up words in columns, with as many files as the
stages write: a file for each 256 rows of a stage that asks a model. The command starts a process of
its own, which imports, reads, draws and writes. The files have been read once before.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import harness

ROOT = Path(__file__).parents[1]
NUM_ROWS = 500_000
GOAL_SECONDS = 10.0


def write(folder: str, num_rows: int) -> None:
    """Write a finished run with so many rows."""
    sys.path.append(str(ROOT))  # the tests' made-up runs
    from tests.support.large_run import write_large_run

    write_large_run(folder, num_rows)


def report(run: str) -> dict[str, float]:
    """Seconds and peak memory of one command."""
    environment = {**os.environ, **harness.QUIET, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "humpback_ray.cli", "report", run]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    seconds, (_, status, usage) = harness.timed(lambda: os.wait4(process.pid, 0))
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "value": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "page_kib": (Path(run) / "report" / "report.html").stat().st_size / 1024,
    }


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = {f"{number:,} rows": number for number in (options.rows // 10, options.rows)}
    under, over = sizes
    memory = harness.Comparison("peak memory", "MiB", over, under, 2, at_most=True)
    seconds = harness.Comparison("seconds of the report", "s", over, under, 3, at_most=True)
    with harness.scratch_folder() as folder:
        runs = {side: str(folder / f"{number}") for side, number in sizes.items()}
        for side, number in sizes.items():
            # A process apart: the memory that this one has had would count as a command's peak.
            writer = multiprocessing.get_context("spawn").Process(
                target=write, args=(runs[side], number)
            )
            writer.start()
            writer.join()
            assert writer.exitcode == 0, f"no run of {side}"
        for side in runs:
            report(runs[side])
        for _ in range(options.repeats):
            for side, run in runs.items():
                figures = report(run)
                seconds.add(side, **figures)
                memory.add(side, value=figures["peak_mib"])
    harness.console.print(f"goal: {over} in {GOAL_SECONDS:g} s, took {seconds.median(over):.1f} s")
    harness.finish([memory, seconds], options.json, goal_seconds=GOAL_SECONDS)


if __name__ == "__main__":
    main()
