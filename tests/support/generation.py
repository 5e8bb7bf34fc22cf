"""Stages that generate, on scripted engines."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.config.settings import AugmentationSettings, LongPromptSettings, RatingSettings
from humpback_ray.execution import metrics, progress
from humpback_ray.execution.stage import Context, Result, Source
from humpback_ray.method import prompts
from humpback_ray.rows import Candidate, Finish, Segment
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.rate import Rate
from tests.support.scripted_engine import ScriptedEngine


def segment(number: int, text: str) -> Segment:
    return Segment(f"segment-{number:04}", text, "A header", "doc", "doc.md", number, len(text),
                   "kept")  # fmt: skip


def context(
    folder: Path, rows_per_batch: int = 16, make_engine=None, printed=None, **engine
) -> Context:
    """The context of a stage with this folder; its parent folder is the run."""
    engine = EnginePlacement(
        rows_per_batch=rows_per_batch, **{"device": "cpu", "max_concurrent_batches": 2, **engine}
    )
    console = Console(file=printed or open(os.devnull, "w"))  # noqa: SIM115
    return Context(
        str(folder.parent), folder.name, Placement(engine=engine),
        progress.StageProgress(console, "test"), metrics.Metrics(str(folder / "metrics.jsonl")),
        make_engine,
    )  # fmt: skip


def augment_stage(
    folder: Path, model: str, *, num_candidates=1, long_prompts=None, context_length=1024
) -> Augment:
    """Augmentation of the segments in a folder."""
    return Augment(
        path="candidates", segments=Source(str(folder / "segments"), "segments"),
        model=Source(model, "model"), tag="A tag.", sampling=AugmentationSettings(max_tokens=32),
        num_candidates=num_candidates, long_prompts=long_prompts or LongPromptSettings(),
        context_length=context_length, dtype="float32", random_seed=0,
    )  # fmt: skip


def augmented(
    folder: Path, segments: list[Segment], model: str, *, num_candidates=1, long_prompts=None,
    context_length=1024, engine=None, make_engine=ScriptedEngine, printed=None, num_files=1,
    **script,
) -> Result:  # fmt: skip
    """Segments through augmentation with a scripted engine; `printed` takes the terminal's text."""
    for number in range(num_files):
        rows = segments[number::num_files]
        tables.write_rows(str(folder / "segments"), rows, Segment, f"part-{number}")
    stage = augment_stage(
        folder, model, num_candidates=num_candidates, long_prompts=long_prompts,
        context_length=context_length,
    )  # fmt: skip
    make_engine = partial(make_engine, **script) if script else make_engine
    where = context(
        folder / "candidates", make_engine=make_engine, printed=printed, **(engine or {})
    )
    return stage.run(where)


def rate_stage(folder: Path, model: str, settings: RatingSettings) -> Rate:
    """Rating of the candidates in a folder."""
    return Rate(
        path="rated", candidates=Source(str(folder / "in"), "candidates"),
        rater=Source(model, "model"), iteration=1, settings=settings,
        template=prompts.RATING_TEMPLATE.template, long_prompts=LongPromptSettings(),
        context_length=2048, dtype="float32", random_seed=0,
    )  # fmt: skip


def rated(
    folder: Path, candidates: list[Candidate], model: str, settings, script: str, **more
) -> Result:
    """Candidates through a rating with a scripted engine."""
    tables.write_rows(str(folder / "in"), candidates, Candidate)
    make_engine = partial(ScriptedEngine, script=script, **more)
    where = context(folder / "rated", make_engine=make_engine)
    return rate_stage(folder, model, settings).run(where)


def candidate(
    number: int, instruction: str = "Why is it so?", response: str = "It is."
) -> Candidate:
    response = f"{response} {number}"
    return Candidate(
        f"s{number:04}-0", f"s{number:04}", instruction, response, Finish.STOP, False, 9, 0, 9
    )
