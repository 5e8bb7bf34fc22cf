"""The paper's 502,133 segments through augment, rate, rate and select, without a model.

Segments of realistic length go through our own stages with scripted engines, on the cores of this
machine. The ratio is the driver's peak memory over the same at a tenth of the rows: what the driver
holds must not grow with the rows. `--engines` asks how far one driver feeds many engines, `--tail`
how engines fare when some answers take very long.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import models
from rich.table import Table
from scripted import LatencyEngine

from humpback_ray import observe, tables
from humpback_ray.config import (
    EnginePlacement,
    LongPromptSettings,
    Placement,
    PromptSettings,
    RatingSettings,
    SamplingSettings,
    SelectionSettings,
)
from humpback_ray.engines.request import Model
from humpback_ray.records import SeedPair, Segment, SegmentOutcome
from humpback_ray.stages import augment, examples, rate
from humpback_ray.stages.stage import Context, Result
from humpback_ray.text import prompts

NUM_ROWS = 502_133  # the paper's
ROWS_PER_FILE = 25_000
STEPS = ("augment", "rate-1", "rate-2", "select")


def write_segments(folder: Path, num_rows: int) -> None:
    """Pieces of READMEs of 600 to 3,000 characters, 1,722 on average as in the paper."""
    text = " ".join(models.texts())
    chosen = random.Random(0)
    for first in range(0, num_rows, ROWS_PER_FILE):
        rows = []
        for number in range(first, min(first + ROWS_PER_FILE, num_rows)):
            length = 600 + round(2400 * chosen.betavariate(1.87, 2.13))
            start = chosen.randrange(len(text) - length)
            piece = text[start : start + length]
            rows.append(
                Segment(
                    f"{number:016x}", piece, "A header", f"{number // 4:016x}", "doc.md",
                    number % 4, length, SegmentOutcome.KEPT,
                )
            )  # fmt: skip
        tables.write_rows(str(folder / "segments"), rows, Segment, f"part-{first:08}")
    pairs = [SeedPair(f"{n}", f"Question {n}?", f"Answer {n}.") for n in range(3200)]
    tables.write_rows(str(folder / "seed"), pairs, SeedPair)


def write_tokenizer(folder: Path) -> Model:
    """A byte-level tokenizer without weights: all that the pool takes of a model here."""
    from humpback_ray.engines.scratch_model import train_tokenizer

    location = str(folder / "tokenizer")
    train_tokenizer(models.texts(), 4096).save_pretrained(location)
    return Model(location, 2048, "auto")


def walk(folder: Path, source: Path, model: Model, engine: EnginePlacement, steps: tuple[str, ...],
         seconds: float, sigma: float) -> Generator[dict[str, Any], Any, None]:  # fmt: skip
    """The steps one after the other, as the pipeline runs them; figures of each."""
    import ray

    ray.init(
        address="local", num_cpus=engine.max_engines + 4, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield {}
    for step in steps:
        took, result = harness.timed(
            lambda: _step(step, folder, source, model, engine, seconds, sigma)
        )
        yield {
            "step": step,
            "seconds": took,
            "rows": result.num_rows,
            "driver_mib": harness.peak_memory(),
            **result.figures.get("engines", {}),
        }
    ray.shutdown()


def _step(step: str, folder: Path, source: Path, model: Model, engine: EnginePlacement,
          seconds: float, sigma: float) -> Result:  # fmt: skip
    console = harness.Console(file=open(os.devnull, "w"))  # noqa: SIM115
    context = Context(
        str(folder / step), Placement(engine=engine), observe.StageProgress(console, step),
        observe.Metrics(str(folder / step / "metrics.jsonl")),
    )  # fmt: skip
    serve = partial(LatencyEngine, seconds=seconds, sigma=sigma)
    if step == "augment":
        work = augment.candidates_of(
            str(source / "segments"), target=context.path("rows"), backward_model=model,
            tag=PromptSettings().web_tag, sampling=SamplingSettings(), num_candidates=1,
            long_prompts=LongPromptSettings(), random_seed=0, serve=serve,
        )  # fmt: skip
        return augment.run(context, work=work, rating=None, begin_rating=None)
    if step == "select":
        return examples.run_curated(
            context, seed=str(source / "seed"), rated=str(folder / "rate-2" / "rows"),
            tags=PromptSettings(), settings=SelectionSettings(method="share", share=0.08),
        )  # fmt: skip
    settings = RatingSettings()
    work = rate.ratings_of(
        str(folder / "augment" / "rows"), target=context.path("rows"), rater=model,
        template=prompts.RATING_TEMPLATE.template, settings=settings,
        long_prompts=LongPromptSettings(), iteration=int(step[-1]), random_seed=0, serve=serve,
    )  # fmt: skip
    return rate.run(context, work=work, settings=settings)


def run_steps(folder: Path, source: Path, model: Model, engine: EnginePlacement,
              steps: tuple[str, ...] = STEPS, seconds: float = 0.2, sigma: float = 0.0,
              ) -> list[dict[str, Any]]:  # fmt: skip
    """All steps with one driver in a process of its own."""
    side = harness.Side(walk, folder, source, model, engine, steps, seconds, sigma)
    side.next()
    figures = []
    for _ in steps:
        figures.append(side.next())
        shown = ", ".join(f"{key} {value}" for key, value in figures[-1].items())
        harness.console.print(f"  {shown}", soft_wrap=True)
    side.close()
    return figures


def memory(options: Any, folder: Path, model: Model) -> harness.Comparison:
    """All rows and a tenth of them."""
    engine = EnginePlacement(
        device="cpu", min_engines=2, max_engines=2, max_num_seqs=1024,
        rows_per_batch=options.rows_per_batch,
    )  # fmt: skip
    comparison = harness.Comparison(
        "driver's peak memory", "MiB", f"{options.rows:,} rows", f"{options.rows // 10:,} rows",
        1.1, at_most=True,
    )  # fmt: skip
    for side, num_rows in ((comparison.under, options.rows // 10), (comparison.over, options.rows)):
        source = folder / f"{num_rows}"
        took, _ = harness.timed(partial(write_segments, source, num_rows))
        harness.console.print(f"{num_rows} segments written in {took:.0f} s")
        steps = run_steps(source, source, model, engine)
        seconds = sum(step["seconds"] for step in steps)
        comparison.add(
            side, value=steps[-1]["driver_mib"], seconds=seconds, rows_per_second=num_rows / seconds,
            steps=steps,
        )  # fmt: skip
    return comparison


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--rows-per-batch", type=int, default=256)
    options = parser.parse_args()
    with harness.scratch_folder() as folder:
        model = write_tokenizer(folder)
        comparisons = [memory(options, folder, model)]
    harness.finish(comparisons, options.json)


if __name__ == "__main__":
    main()
