"""Peak memory while rated pairs are selected, ten times the pairs / the pairs.

Rated pairs with short texts, two candidates of each segment, and scores of which many are equal. A
driver in a separate process chooses the best tenth and draws half of it, as the stage of an
iteration's examples does, and finds the thresholds of a rating's record. The tables have the peak
of the driver and of the largest task process.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import memory
import numpy as np
import pyarrow as pa
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.rows import RatedPair, RatingOutcome
from humpback_ray.stages.choosing import compared

NUM_PAIRS = 5_000_000
PAIRS_PER_FILE = 25_000


def write_pairs(folder: str, num_pairs: int) -> None:
    """Write rated pairs of segments with two candidates each."""
    random = np.random.default_rng(0)
    schema = tables.arrow_schema(RatedPair)
    for first in range(0, num_pairs, PAIRS_PER_FILE):
        numbers = range(first, min(first + PAIRS_PER_FILE, num_pairs))
        values: dict[str, Any] = dict.fromkeys(schema.names, [0] * len(numbers))
        values |= {
            # Of as many characters as a hash has.
            "candidate_id": [f"{n // 2:032x}-{n % 2}" for n in numbers],
            "segment_id": [f"{n // 2:032x}" for n in numbers],
            "instruction": ["What is it?"] * len(numbers),
            "response": ["It is."] * len(numbers),
            "score": np.round(random.uniform(1, 5, len(numbers)), 1),
            "probabilities": [None] * len(numbers),
            "outcome": [RatingOutcome.SCORED.value] * len(numbers),
            "rationale": [""] * len(numbers),
            "was_cut": [False] * len(numbers),
        }
        table = pa.table({name: pa.array(values[name]) for name in schema.names}).cast(schema)
        tables.write_table(folder, table, f"part-{first:010}")


def drive(folder: str, num_best: int) -> Generator[dict[str, Any], Any, None]:
    """A driver in a separate process, which yields the seconds and peaks of memory of a choice."""
    memory.start_ray()
    settings = SelectionSettings(method="best", num_best=num_best, max_pairs=num_best // 2)
    tasks = partial(run_tasks, StageProgress(Console(quiet=True), "examples"))

    def choose() -> dict[str, Any]:
        pairs = compared(f"{folder}/rated", f"{folder}/work", settings, tasks)
        pairs.thresholds()
        return pairs.write(f"{folder}/chosen", lambda rows: rows)

    yield {}
    peak = memory.TaskMemory()
    with peak.watched():
        seconds, figures = harness.timed(choose)
    yield {
        "value": harness.peak_memory(),
        "task_mib": peak.peak,
        "seconds": seconds,
        "num_scored": figures["num_scored"],
        "num_selected": figures["num_selected"],
    }


def measure(folder: Path, num_pairs: int) -> dict[str, Any]:
    """Figures of one size; its files are deleted."""
    write_pairs(str(folder / "rated"), num_pairs)
    figures = memory.figures_of(drive, str(folder), num_pairs // 10)
    shutil.rmtree(folder)
    assert figures["num_scored"] == num_pairs
    assert figures["num_selected"] == num_pairs // 20
    return figures


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS)
    options = parser.parse_args()
    over, under = (f"{number:,} pairs" for number in (options.pairs, options.pairs // 10))
    driver, task = memory.of_driver(over, under), memory.of_largest_task(over, under)
    with harness.scratch_folder() as folder:
        for side, number in ((under, options.pairs // 10), (over, options.pairs)):
            figures = measure(folder / f"{number}", number)
            driver.add(side, **figures)
            task.add(side, value=figures["task_mib"])
    harness.finish([driver, task], options.json)


if __name__ == "__main__":
    main()
