"""Stages and records for tests that read what a run has written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, ClassVar

from rich.console import Console

from humpback_ray import storage
from humpback_ray.config.placement import Placement
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress, state_written
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import (
    METRICS,
    NOT_HASHED,
    PROGRESS,
    Context,
    Part,
    Result,
    Stage,
    StageRecord,
)


def record(
    num_rows: int = 0,
    seconds: float = 0.0,
    outcomes: Mapping[str, int] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> StageRecord:
    """A record with these facts; its outcomes need not add up."""
    return StageRecord("", {}, num_rows, dict(outcomes or {}), dict(figures or {}), seconds, {})


@dataclass(frozen=True, kw_only=True)
class Work(Stage):
    """A stage whose work is a function of the test."""

    kind: ClassVar[str] = "seed"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "prepare"

    work: Callable[[Context], Result] = field(metadata=NOT_HASHED)

    def run(self, context: Context) -> Result:
        return self.work(context)


def execute(stage: Stage, run_folder: str) -> None:
    """Run a stage as the runner does, without a cluster."""
    console = Console(file=StringIO())
    progress = StageProgress(console, stage.path)
    metrics = Metrics(storage.join(run_folder, stage.path, METRICS))
    context = Context(run_folder, stage.path, Placement(), progress, metrics)
    stage.begin(run_folder)
    with progress.shown(), state_written(progress, context.path(PROGRESS)):
        result = stage.run(context)
    metrics.flush()
    stage.finish(run_folder, result, 1.0, provenance())
