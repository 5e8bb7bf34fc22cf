"""Good segments that the filter keeps / segments that it keeps, both as shares.

Segments of generated words, a part of which say how good a text is; scores have noise. The linear
model learns from a sample as the stage `prefilter/model` does, in this process. A separate driver
cuts a tenth of the segments and all of them as the stage `prefilter/segments` does. The table has
the rows per second of the whole stage, the peak memory of the driver and of the largest task,
and the recall of the truly best 5%, beside the recall that cross-validation has foretold.
"""

from __future__ import annotations

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
from humpback_ray.config.placement import Placement
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.stage import Context, Source
from humpback_ray.method import prefilter
from humpback_ray.rows import Segment, SegmentOutcome
from humpback_ray.stages.prefilter import WEIGHTS, PrefilterModel, PromisingSegments

NUM_SEGMENTS, NUM_RATED = 200_000, 5_000
SEGMENTS_PER_FILE = 10_000
NUM_WORDS = 250  # of a text, about 1,700 characters
VOCABULARY, NUM_GOOD_WORDS = 50_000, 500
NOISE = 0.7  # standard deviation of a score around a text's quality, both from 1 to 5
SHARE, BEST = 0.1, 0.05


def write_segments(folder: Path, number: int) -> np.ndarray:
    """Write segments; returns the quality of each, 0 to 1, by the number in its id."""
    random = np.random.default_rng(0)
    words = np.array([f"w{n:05x}" for n in random.permutation(VOCABULARY)], object)
    good = np.array([f"g{n:05x}" for n in range(NUM_GOOD_WORDS)], object)
    qualities = random.beta(2, 5, number)
    for first in range(0, number, SEGMENTS_PER_FILE):
        rows = []
        for at, quality in enumerate(qualities[first : first + SEGMENTS_PER_FILE], start=first):
            num_good = random.binomial(NUM_WORDS // 10, quality)
            places = VOCABULARY * random.random(NUM_WORDS - num_good) ** 3  # few words are frequent
            text = [
                *words[places.astype(int)],
                *good[random.integers(NUM_GOOD_WORDS, size=num_good)],
            ]
            random.shuffle(text)
            whole = " ".join(text)
            rows.append(Segment(f"{at:032x}", whole, "", f"{at}", "", 0, len(whole),
                                SegmentOutcome.KEPT))  # fmt: skip
        tables.write_rows(str(folder), rows, Segment, f"part-{first:010}")
    return qualities


def learn(run: Path, qualities: np.ndarray) -> prefilter.Measured:
    """Write a model of noisy scores of the first segments, and measure it."""
    table = tables.read_named(str(run / "segments"), f"part-{0:010}").slice(0, NUM_RATED)
    noise = np.random.default_rng(1).normal(0, NOISE, len(table))
    scores = 1 + 4 * qualities[: len(table)] + noise
    model, predicted = prefilter.learn(table["text"].to_pylist(), scores)
    tables.write_table(str(run / "model" / WEIGHTS), pa.table({"weight": model.weights}), "part-0")
    return prefilter.measure(scores, predicted)


def drive(run: str, segments: str, name: str) -> Generator[dict[str, Any], Any, None]:
    """A driver in a separate process, which yields the seconds and the peaks of memory of a cut."""
    memory.start_ray()
    model = PrefilterModel(path="model", rated=Source("", ""))
    source = Source(segments, "segments")
    stage = PromisingSegments(path=name, segments=source, model=model, share=SHARE)
    context = Context(run, name, Placement(), StageProgress(Console(quiet=True), name),
                      Metrics(f"{run}/{name}.jsonl"))  # fmt: skip
    tasks = memory.TaskMemory()
    yield {}
    with tasks.watched():
        seconds, result = harness.timed(lambda: stage.run(context))
    yield {
        "value": harness.peak_memory(),
        "task_mib": tasks.peak,
        "seconds": seconds,
        "rows_per_second": result.num_rows / seconds,
        "rows": result.num_rows,
    }


def recall(rows: Path, qualities: np.ndarray) -> float:
    """The share of the truly best segments among the kept ones."""
    best = qualities >= np.quantile(qualities, 1 - BEST)
    ids = tables.id_column(str(rows), "segment_id").to_pylist()
    return float(best[[int(name, 16) for name in ids]].sum() / best.sum())


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--segments", type=int, default=NUM_SEGMENTS)
    options = parser.parse_args()
    over, under = (f"{n:,} segments" for n in (options.segments, options.segments // 10))
    driver = memory.of_driver(over, under)
    kept = harness.Comparison("good segments", "share kept", "the best 5%", "all", 3)
    with harness.scratch_folder() as scratch:
        for side, number in ((under, options.segments // 10), (over, options.segments)):
            run = scratch / f"{number}"
            qualities = write_segments(run / "segments", number)
            seconds, measured = harness.timed(partial(learn, run, qualities))
            figures = memory.figures_of(drive, str(run), str(run / "segments"), "cut")
            driver.add(side, **figures)
        foretold = next(each for each in measured.recalls if each.best == BEST).of_cut[SHARE]
        kept.add("all", value=SHARE)
        kept.add("the best 5%", value=recall(run / "cut" / "rows", qualities), foretold=foretold,
                 learning_seconds=seconds, num_rated=measured.num_scored)  # fmt: skip
    harness.finish([driver, kept], options.json)


if __name__ == "__main__":
    main()
