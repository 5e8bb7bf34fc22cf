"""The plan of a run: every stage, finished or to do, and the estimate of its hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from humpback_ray import pipeline, storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.execution.stage import Stage, StageRecord, State
from humpback_ray.planning import extrapolate
from humpback_ray.planning.estimate import RunEstimate, estimate_stages, filter_note
from humpback_ray.sizing.hardware import Hardware


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a recipe and its state in a run folder."""

    path: str
    kind: str
    fingerprint: str | None  # None while a source behind the stage is missing
    state: State
    detail: str  # counts of a finished stage, or the fields that differ


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe in order, and a line for each missing source."""

    stages: list[PlannedStage]
    missing: list[str]


def plan_run(recipe: Recipe, run_folder: str) -> Plan:
    """Look up every stage of a recipe in a run folder, without writing anything.

    Raises:
        UserError: the folder cannot be read from here.
    """
    stages = pipeline.stages_of(recipe)
    missing = missing_sources(stages)
    with storage.explained(run_folder):
        return Plan([_planned(stage, run_folder) for stage in stages], missing)


def missing_sources(stages: Sequence[Stage]) -> list[str]:
    """A line for each source that stages wait for."""
    return list(dict.fromkeys(line for stage in stages for line in stage.problems))


def _planned(stage: Stage, run_folder: str) -> PlannedStage:
    if stage.problems:
        detail = "waits for a source, see below"
        return PlannedStage(stage.path, stage.kind, None, State.TO_DO, detail)
    state, begun = stage.find(run_folder)
    detail = begun.counts if isinstance(begun, StageRecord) else ""
    if begun is not None and state is State.CHANGED:
        detail = "; ".join(stage.differences(begun))
    return PlannedStage(stage.path, stage.kind, stage.fingerprint, state, detail)


def estimate_run(
    recipe: Recipe, run_folder: str, hardware: Hardware, num_rows: int | None = None
) -> RunEstimate:
    """Estimate the hours of every stage on the given hardware, finished stages left out.

    RUN/probe.json, where it fits, replaces published figures; not with `num_rows`, because the
    probe measured the run's own number of segments.

    Raises:
        UserError: the base model's architecture is not known, there are no rows, or the folder
            cannot be read from here.
    """
    stages = pipeline.stages_of(recipe)
    with storage.explained(run_folder):
        states = {stage.path: stage.find(run_folder) for stage in stages if not stage.problems}
    finished = {
        path: record
        for path, (state, record) in states.items()
        if state is State.DONE and isinstance(record, StageRecord)
    }
    estimates = estimate_stages(recipe, stages, finished, hardware, num_rows)
    note = filter_note(stages, finished, num_rows)
    if num_rows is not None:
        return RunEstimate(estimates, note)
    with storage.explained(run_folder):
        rows, of_probe = extrapolate.replace_by_probe(recipe, run_folder, hardware, estimates)
    return RunEstimate(rows, "\n".join(line for line in (of_probe, note) if line))
