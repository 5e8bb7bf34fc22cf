"""Stages that generate, on scripted engines."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.config.settings import (
    LongPromptSettings,
    SamplingSettings,
)
from humpback_ray.execution import metrics, progress
from humpback_ray.execution.stage import Context
from humpback_ray.method import prompts
from humpback_ray.rows import Candidate, Finish, Segment
from humpback_ray.serving.requests import ServedModel
from humpback_ray.stages import augment, rate
from tests.support.scripted_engine import ScriptedEngine


def segment(number: int, text: str) -> Segment:
    return Segment(f"segment-{number:04}", text, "A header", "doc", "doc.md", number, len(text),
                   "kept")  # fmt: skip


def context(folder: Path, rows_per_batch: int = 16, **engine) -> Context:
    engine = EnginePlacement(
        rows_per_batch=rows_per_batch, **{"device": "cpu", "max_concurrent_batches": 2, **engine}
    )
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return Context(
        str(folder), Placement(engine=engine), progress.StageProgress(console, "test"),
        metrics.Metrics(str(folder / "metrics.jsonl")), "a-run", "candidates",
    )  # fmt: skip


def augmented(
    folder: Path, segments: list[Segment], model: str, *, num_candidates=1, long_prompts=None,
    context_length=1024, engine=None, make_engine=ScriptedEngine, **script,
):  # fmt: skip
    """Segments through `augment.run` with a scripted engine."""
    tables.write_rows(str(folder / "segments"), segments, Segment)
    work = augment.candidates_of(
        str(folder / "segments"), target=str(folder / "candidates" / "rows"),
        backward_model=ServedModel(model, context_length, "float32"), tag="A tag.",
        sampling=SamplingSettings(max_tokens=32), num_candidates=num_candidates,
        long_prompts=long_prompts or LongPromptSettings(), random_seed=0,
        make_engine=partial(make_engine, **script) if script else make_engine,
    )  # fmt: skip
    where = context(folder / "candidates", **(engine or {}))
    return augment.run(where, work=work, rating=None, begin_rating=None)


def rated(folder: Path, candidates: list[Candidate], model: str, settings, script: str, **more):
    tables.write_rows(str(folder / "in"), candidates, Candidate)
    target = folder / "rated" / ("samples" if settings.method == "mean" else "rows")
    work = rate.ratings_of(
        str(folder / "in"), target=str(target), rater=ServedModel(model, 2048, "float32"),
        template=prompts.RATING_TEMPLATE.template, settings=settings,
        long_prompts=LongPromptSettings(), iteration=1, random_seed=0,
        make_engine=partial(ScriptedEngine, script=script, **more),
    )  # fmt: skip
    return rate.run(context(folder / "rated"), work=work, settings=settings)


def candidate(
    number: int, instruction: str = "Why is it so?", response: str = "It is."
) -> Candidate:
    response = f"{response} {number}"
    return Candidate(
        f"s{number:04}-0", f"s{number:04}", instruction, response, Finish.STOP, False, 9, 0, 9
    )
