"""Seconds of augmentation and the first rating: two stages / one stream, on the same engines.

Two stages: two engines write the instructions, then two engines rate. One stream: one engine of
each at the same time, so each model starts once and none waits for the other, but an engine is idle
when its pass has fewer rows to do. Starts are counted, because a run pays for them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import full_size
import harness
import models
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.config.settings import (
    LongPromptSettings,
    PromptSettings,
    RatingSettings,
    SamplingSettings,
)
from humpback_ray.execution import metrics, progress
from humpback_ray.execution.stage import Context
from humpback_ray.method import prompts
from humpback_ray.serving.generate import GenerationPass
from humpback_ray.serving.requests import ServedModel
from humpback_ray.stages import augment, rate

NUM_ENGINES = 2
NUM_CPUS_FOR_ROWS = 2


@dataclass(frozen=True)
class Run:
    """Both passes over the segments of a folder."""

    source: Path
    target: Path
    model: ServedModel
    num_tokens: int
    one_stream: bool

    def context(self, name: str) -> Context:
        engine = EnginePlacement(
            device="cpu", min_engines=1, max_engines=NUM_ENGINES, enforce_eager=True,
            rows_per_batch=32, one_stream=self.one_stream,
        )  # fmt: skip
        return Context(
            str(self.target / name),
            Placement(engine=engine),
            progress.StageProgress(Console(file=io.StringIO()), name),
            metrics.Metrics(str(self.target / name / "metrics.jsonl")),
        )

    def passes(self) -> tuple[GenerationPass, GenerationPass]:
        work = augment.candidates_of(
            str(self.source / "segments"), target=self.context("augment").path("rows"),
            backward_model=self.model, tag=PromptSettings().web_tag,
            sampling=SamplingSettings(max_tokens=self.num_tokens), num_candidates=1,
            long_prompts=LongPromptSettings(), random_seed=0,
        )  # fmt: skip
        rating = rate.ratings_of(
            work.target, target=self.context("rate").path("rows"), rater=self.model,
            template=prompts.RATING_TEMPLATE.template, settings=RatingSettings(),
            long_prompts=LongPromptSettings(), iteration=1, random_seed=0,
        )  # fmt: skip
        return work, rating

    def walk(self) -> None:
        work, rating = self.passes()
        augment.run(self.context("augment"), work=work, rating=rating, begin_rating=lambda: None)
        if not self.one_stream:
            rate.run(self.context("rate"), work=rating, settings=RatingSettings())


def measure(run: Run) -> Generator[dict[str, Any], Any, None]:
    """A driver in a process of its own, on a cluster with room for two engines."""
    import ray

    ray.init(
        address="local", num_cpus=NUM_ENGINES + NUM_CPUS_FOR_ROWS, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    yield {}
    seconds, _ = harness.timed(run.walk)
    num_rated = tables.num_rows(run.context("rate").path("rows"))
    yield {"value": seconds, "num_rated": num_rated}
    ray.shutdown()


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=32, help="of each instruction")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    comparison = harness.Comparison(
        "augmentation and first rating, 5M", "seconds", "two stages", "one stream", 1.0
    )
    with harness.scratch_folder() as folder:
        model = models.create("5M", folder)
        full_size.write_segments(folder, options.rows)
        for number in range(options.repeats):
            for name, one_stream in (("two stages", False), ("one stream", True)):
                target = folder / f"{number}-{one_stream}"
                run = Run(folder, target, model, options.tokens, one_stream)
                side = harness.Side(partial(measure, run))
                side.next()
                figures = side.next()
                side.close()
                assert figures["num_rated"] == options.rows
                comparison.add(name, **figures)
    harness.finish([comparison], options.json)


if __name__ == "__main__":
    main()
