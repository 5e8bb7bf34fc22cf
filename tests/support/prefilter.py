"""Texts whose words tell their score, and the filter's stages on them with scripted engines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.stage import Context, Result, Source, Stage
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import Segment, SegmentOutcome
from humpback_ray.stages.prefilter import prefiltered
from tests.support.scripted_engine import ScriptedEngine

NOISE = 0.4  # standard deviation of a score around the text's quality


def scored_texts(number: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of random words, the more good ones among them the better; and noisy scores, 1 to 5."""
    drawn = random.Random(seed)
    texts, scores = [], []
    for _ in range(number):
        quality = drawn.random()
        words = [f"word{int(drawn.paretovariate(0.7)) % 2000}" for _ in range(60)]
        words += [f"good{drawn.randrange(40)}" for _ in range(round(20 * quality))]
        drawn.shuffle(words)
        texts.append(" ".join(words))
        scores.append(min(max(1 + 4 * quality + drawn.gauss(0, NOISE), 1.0), 5.0))
    return texts, np.array(scores)


def segments_of(texts: list[str]) -> list[Segment]:
    """A segment for each text."""
    return [
        Segment(segment_id(text), text, "A header", f"doc-{n}", "", n, len(text),
                SegmentOutcome.KEPT)
        for n, text in enumerate(texts)
    ]  # fmt: skip


def stages_on(
    folder: Path, texts: Sequence[str], model: str, settings: str, num_files: int = 3
) -> list[Stage]:
    """The filter's stages over segments in some files, with a model folder as M_yx and as M_0."""
    rows = segments_of(list(texts))
    size = -(-len(rows) // num_files)
    for number in range(num_files):
        part = rows[number * size : (number + 1) * size]
        tables.write_rows(str(folder / "segments"), part, Segment, f"part-{number}")
    recipe = load_recipe(
        "tiny", ["settings.corpus.path=/none", f"settings.prefilter={settings}",
                 "settings.rating.min_grade_mass=0"]
    )  # fmt: skip
    serving: dict[str, Any] = {"context_length": 2048, "dtype": "float32", "random_seed": 0}
    segments = Source(str(folder / "segments"), "segments")
    return prefiltered(recipe.settings, segments, Source(model, "a"), Source(model, "b"), serving)


def run_stage(folder: Path, stage: Stage, console: Console | None = None) -> Result:
    """Run a stage in a run's folder; its engines give grades by the good words of a text."""
    engine = EnginePlacement(device="cpu", rows_per_batch=32, max_concurrent_batches=2)
    context = Context(
        str(folder), stage.path, Placement(engine=engine),
        StageProgress(console or Console(quiet=True), stage.path),
        Metrics(str(folder / stage.path / "metrics.jsonl")),
        partial(ScriptedEngine, script="by_quality"),
    )  # fmt: skip
    return stage.run(context)
