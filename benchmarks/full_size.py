"""Driver's peak memory for the paper's 502,133 segments / for a tenth of them, without a model.

Segments of realistic length go through augment, rate, rate and select with scripted engines, on the
cores of this machine. The driver's memory must not grow with the rows. Before that, the script
measures how long engines wait when some answers are very long. `--method mean` rates every pair
three times, so a rating has three times the rows.
"""

from __future__ import annotations

import io
import logging
import random
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import harness
import models
import scripted
from rich.console import Console
from scripted import LatencyEngine

from humpback_ray import tables
from humpback_ray.config.placement import ClusterPlacement, EnginePlacement, Placement
from humpback_ray.config.settings import (
    AugmentationSettings,
    LongPromptSettings,
    PromptSettings,
    RatingSettings,
    SelectionSettings,
)
from humpback_ray.execution import metrics, progress
from humpback_ray.execution.stage import Context, Result, Source, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import SeedPair, Segment, SegmentOutcome
from humpback_ray.serving.requests import ServedModel
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.rate import Rate

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


def write_tokenizer(folder: Path) -> ServedModel:
    """A byte-level tokenizer without weights, the only part of a model that the pool needs here."""
    from humpback_ray.training.scratch_model import train_tokenizer

    location = str(folder / "tokenizer")
    train_tokenizer(models.texts(), 4096).save_pretrained(location)
    return ServedModel(location, 2048, "auto")


@dataclass(frozen=True)
class Walk:
    """Some steps of the pipeline, in order."""

    folder: Path  # where the steps write
    source: Path  # with segments and seed
    model: ServedModel
    engine: EnginePlacement
    steps: tuple[str, ...] = STEPS
    seconds: float = 0.2  # of an answer
    sigma: float = 0.0
    log: str = ""
    address: str = ""  # of a cluster; empty starts one
    autoscaling: bool = False
    method: Literal["expected", "mean"] = "expected"  # of the ratings

    def make_engine(self) -> Callable[..., LatencyEngine]:
        return partial(LatencyEngine, seconds=self.seconds, sigma=self.sigma, log=self.log)

    def run(self, step: str) -> Result:
        context = Context(
            str(self.folder),
            step,
            Placement(engine=self.engine, cluster=ClusterPlacement(autoscaling=self.autoscaling)),
            progress.StageProgress(Console(file=io.StringIO()), step),
            metrics.Metrics(str(self.folder / step / "metrics.jsonl")),
            self.make_engine(),
        )
        return self.stage(step).run(context)

    def stage(self, step: str) -> Stage:
        """The stage of a step, with folders as sources."""
        tags = PromptSettings()
        seed, segments = self._source(self.source / "seed"), self._source(self.source / "segments")
        serving: dict[str, Any] = {
            "context_length": self.model.context_length, "dtype": self.model.dtype,
            "random_seed": 0, "long_prompts": LongPromptSettings(),
        }  # fmt: skip
        if step == "augment":
            return Augment(
                path=step, segments=segments, model=self._source(Path(self.model.location)),
                tag=tags.web_tag, sampling=AugmentationSettings(), num_candidates=1, **serving,
            )  # fmt: skip
        if step == "select":
            return Curate(
                path=step, seed=seed, rated=self._source(self.folder / "rate-2" / "rows"),
                settings=SelectionSettings(method="share", share=0.08),
                seed_tag=tags.seed_tag, web_tag=tags.web_tag,
            )  # fmt: skip
        return Rate(
            path=step, candidates=self._source(self.folder / "augment" / "rows"),
            rater=self._source(Path(self.model.location)), iteration=int(step[-1]),
            settings=RatingSettings(method=self.method),
            template=prompts.RATING_TEMPLATE.template, **serving,
        )  # fmt: skip

    def _source(self, folder: Path) -> Source:
        return Source(str(folder), str(folder))


def drive(walk: Walk) -> Generator[dict[str, Any], Any, None]:
    """A driver in a separate process, which yields figures of each step."""
    import ray

    own = {"num_cpus": walk.engine.max_engines + 4, "include_dashboard": False}
    ray.init(
        address=walk.address or "local", log_to_driver=False, logging_level="ERROR",
        **({} if walk.address else own),
    )  # fmt: skip
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    yield {}
    for step in walk.steps:
        took, result = harness.timed(partial(walk.run, step))
        yield {
            "step": step,
            "rows": result.num_rows,
            "seconds": round(took, 1),
            "rows_per_second": round(result.num_rows / took, 1),
            "driver_mib": round(harness.peak_memory(), 1),
            **result.figures.get("engines", {}),
        }
    ray.shutdown()


def run_steps(walk: Walk) -> list[dict[str, Any]]:
    """All steps of a walk; figures of each."""
    side = harness.Side(drive, walk)
    side.next()
    figures = []
    for _ in walk.steps:
        figures.append(side.next())
        shown = ", ".join(f"{key} {value}" for key, value in figures[-1].items())
        harness.console.print(f"  {shown}", soft_wrap=True)
    side.close()
    return figures


def memory(options: Any, folder: Path, model: ServedModel) -> harness.Comparison:
    """A tenth of the rows, and all of them."""
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
        write_segments(source, num_rows)
        steps = run_steps(Walk(source, source, model, engine, method=options.method))
        shutil.rmtree(source)
        seconds = sum(step["seconds"] for step in steps)
        comparison.add(side, value=steps[-1]["driver_mib"], seconds=seconds, steps=steps)
    return comparison


def long_tail(folder: Path, model: ServedModel) -> dict[str, Any]:
    """Four engines and answers of log-normal length: how long engines wait, and for whom."""
    log = folder / "log-tail"
    log.mkdir()
    engine = EnginePlacement(
        device="cpu", min_engines=4, max_engines=4, max_num_seqs=64, rows_per_batch=64
    )
    source = folder / "tail"
    write_segments(source, 4000)
    walk = Walk(
        source, source, model, engine, ("augment",), seconds=1.0, sigma=1.0, log=str(log)
    )  # fmt: skip
    (step,) = run_steps(walk)
    times = scripted.answers(log)
    last = max(times, key=lambda name: times[name][-1])
    slowest = min(times, key=lambda name: len(times[name]) / (times[name][-1] - times[name][0]))
    ends = sorted(found[-1] for found in times.values())
    harness.console.print(
        f"long tail: {step['idle_share_before_tail']:.1%} of the engines' time idle before the "
        f"last 2% of rows; slowest engine {slowest} ({len(times[slowest])} rows); the last to end "
        f"is {last}, {ends[-1] - ends[0]:.1f} s after the first"
    )
    return {"step": step, "slowest": slowest, "last": last, "seconds_apart": ends[-1] - ends[0]}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--rows-per-batch", type=int, default=256)
    parser.add_argument("--method", choices=("expected", "mean"), default="expected")
    parser.add_argument("--only", choices=("memory", "tail"))
    options = parser.parse_args()
    comparisons, more = [], {}
    with harness.scratch_folder() as folder:
        model = write_tokenizer(folder)
        if options.only in (None, "tail"):
            more["long_tail"] = long_tail(folder, model)
        if options.only in (None, "memory"):
            comparisons.append(memory(options, folder, model))
    if comparisons:
        harness.finish(comparisons, options.json, **more)


if __name__ == "__main__":
    main()
