"""The hours of a whole run, extrapolated from a probe's sample: arithmetic over records.

Seconds of a stage of the real run = fixed + number of rows or steps x seconds of each:

- Generating stages: an engine's busy seconds per row, divided by the number of engines. The rest of
  the stage, mostly start-up, is fixed. Assumes that engines do not slow each other down
  (benchmarks/scaling.py measures it).
- Trainings: the median seconds per token over all steps but the first, times the tokens of a batch;
  plus checkpoints, as many as the real training writes. Assumes that the cost per token does not
  depend on the length of an example, which grows with the iterations.
- All other stages (seed, segments, examples): as recorded.

The 95% interval covers sampling alone: of the rows' tokens in generating stages, of the steps'
seconds per token in trainings. It leaves out noise of the machines, failures, answers that grow
longer or shorter as models get better, and another share of selected pairs than the expected one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError
from scipy import stats

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.execution import clock, provenance
from humpback_ray.execution.stage import Stage, StageRecord
from humpback_ray.method.schedule import schedule
from humpback_ray.planning import estimate
from humpback_ray.sizing.hardware import Hardware
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.base import BaseExamples
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.generating import GeneratingStage
from humpback_ray.stages.rate import Rate

RESULT = "probe.json"  # in the run's folder
Records = Mapping[str, StageRecord]  # by path
CONFIDENCE = 0.95  # of every interval


@dataclass(frozen=True)
class StageForecast:
    """A stage of the real run: fixed + number of units x seconds of each."""

    path: str
    fixed_seconds: float
    unit: str = ""  # rows, steps, or nothing
    num_units: int = 0
    unit_seconds: float = 0.0
    relative_error: float = 0.0  # half width of the 95% interval of `unit_seconds`
    is_done: bool = False  # in the real run

    @property
    def seconds(self) -> float:
        return self.fixed_seconds + self.num_units * self.unit_seconds

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest seconds."""
        half = self.num_units * self.unit_seconds * self.relative_error
        return max(self.seconds - half, 0.0), self.seconds + half


@dataclass(frozen=True)
class Sample:
    """The measurements of a probe."""

    records: Records  # of the probe's stages; of stages copied from the run, the run's
    steps: Mapping[str, Sequence[Mapping[str, Any]]]  # records of a training's steps, by path
    row_errors: Mapping[str, float]  # relative error of the tokens of a row, by path
    web_tokens: float  # mean of a candidate as a training example
    num_rows: int  # segments drawn
    num_segments: int  # segments of the run
    done: Records  # of the run's finished stages


@dataclass(frozen=True)
class ProbeReport:
    """The forecast of every stage of the real run, in order, with notes for a person."""

    recipe: Recipe
    num_rows: int
    num_segments: int
    num_gpus: int  # of the cluster; all are paid for as long as the run lasts
    stages: list[StageForecast]
    notes: list[str]


# --- arithmetic -----------------------------------------------------------------------------------


def relative_error(values: Sequence[float]) -> float:
    """Half width of the 95% interval of the mean of these values, as a share of it."""
    if len(values) < 2:
        return 1.0
    mean = statistics.mean(values)
    _, half_width = stats.t.interval(CONFIDENCE, len(values) - 1)  # in standard errors
    standard_error = statistics.stdev(values) / math.sqrt(len(values))
    return float(half_width) * standard_error / mean if mean else 0.0


def extrapolate(recipe: Recipe, stages: Sequence[Stage], sample: Sample) -> list[StageForecast]:
    """Forecast every stage of the real run.

    Args:
        recipe: of the run, not shortened.
        stages: all of the run, in order.
        sample: measurements of the probe.
    """
    forecasts = []
    for stage in stages:
        measured = stand_in(stage, stages, sample.records)
        if measured is not None and isinstance(stage, GeneratingStage):
            forecast = _generating(recipe, stage, measured, sample)
        elif measured is not None and isinstance(stage, Finetune):
            forecast = _training(recipe, stage, measured, sample)
        else:
            record = sample.done.get(stage.path) or sample.records.get(measured or "")
            forecast = StageForecast(stage.path, record.seconds if record else 0.0)
        forecasts.append(replace(forecast, is_done=stage.path in sample.done))
    return forecasts


def stand_in(stage: Stage, stages: Sequence[Stage], records: Records) -> str | None:
    """Path of the probe's stage that measures a stage: its own, else the last one of its class.

    The filter's stages that generate are of classes derived from those that generate after it. All
    iterations and all models cost alike. The last training of a probe is that of M_0, which has the
    settings of every M_t. None if the probe measured no stage of the class.
    """
    if stage.path in records:
        return stage.path
    alike = [
        other.path for other in stages if isinstance(stage, type(other)) and other.path in records
    ]
    return alike[-1] if alike else None


@dataclass(frozen=True)
class _Engines:
    busy_seconds: float


@dataclass(frozen=True)
class _Generated:
    """The figures that an extrapolation needs of a generating stage."""

    engines: _Engines | None = None


@dataclass(frozen=True)
class _Trained:
    """The figures that an extrapolation needs of a training."""

    num_examples: int
    num_tokens: float


def _generating(
    recipe: Recipe, stage: GeneratingStage, measured: str, sample: Sample
) -> StageForecast:
    record = sample.records[measured]
    engine, num_rows = recipe.placement.engine, record.num_rows
    # The rows of other stages, such as an evaluation's prompts, are the probe's.
    if isinstance(stage, Augment | Rate):
        augment = estimate.first_origin(stage, Augment)
        num_rows = estimate.num_segments_read(augment, sample.num_segments)
        num_rows *= augment.num_candidates
    place = f"the record of {measured}"
    engines = storage.as_type(record.figures, _Generated, place).engines
    # An endpoint's engines are unknown, so its rows come at the measured rate.
    busy = min(engines.busy_seconds if engines else record.seconds, record.seconds)
    # An engine takes whole batches.
    num_engines = min(engine.max_engines, -(-num_rows // engine.rows_per_batch)) if engines else 1
    return StageForecast(
        stage.path,
        fixed_seconds=record.seconds - busy,
        unit="rows",
        num_units=num_rows,
        unit_seconds=busy / record.num_rows / num_engines,
        # An evaluation uses all of its prompts, so it has no sampling error.
        relative_error=sample.row_errors.get(measured, 0.0),
    )


def _training(recipe: Recipe, stage: Finetune, measured: str, sample: Sample) -> StageForecast:
    record, steps = sample.records[measured], sample.steps[measured]
    rates = [1 / step["tokens_per_second"] for step in steps[1:] or steps]
    token_seconds = statistics.median(rates)
    saves = [step["checkpoint_seconds"] for step in steps if step["checkpoint_seconds"]]
    num_tokens = sum(step["tokens_per_second"] * step["seconds"] for step in steps)
    num_examples, mean_tokens = _examples(stage, record, sample)
    batch_size, num_steps = schedule(num_examples, stage.settings)
    num_saves = (num_steps - 1) // recipe.placement.training.checkpoint_every
    saving = num_saves * statistics.mean(saves) if saves else 0.0
    return StageForecast(
        stage.path,
        fixed_seconds=max(record.seconds - sum(saves) - num_tokens * token_seconds, 0.0),
        unit="steps",
        num_units=num_steps,
        unit_seconds=batch_size * mean_tokens * token_seconds + saving / num_steps,
        relative_error=relative_error(rates),
    )


def _examples(stage: Finetune, record: StageRecord, sample: Sample) -> tuple[int, float]:
    """Number of a training's examples in the real run, and their mean tokens."""
    trained = storage.as_type(record.figures, _Trained, f"the record of {stage.path}")
    num_examples, num_tokens = trained.num_examples, trained.num_tokens
    # Pieces of the drawn segments.
    if isinstance(stage.examples, BaseExamples) and stage.path not in sample.done:
        share = sample.num_rows / sample.num_segments
        return round(num_examples / share), num_tokens / num_examples
    if isinstance(stage.examples, Curate):
        augment = estimate.first_origin(stage.examples, Augment)
        num_segments = estimate.num_segments_read(augment, sample.num_segments)
        num_web = estimate.num_selected(stage.examples.settings, num_segments)
        num_examples += num_web
        num_tokens += num_web * sample.web_tokens
    return num_examples, num_tokens / num_examples


# --- RUN/probe.json, which `humpback estimate` reads ----------------------------------------------


def write(report: ProbeReport, run_folder: str) -> None:
    """Write RUN/probe.json: versions, recipe with placement, figures of every stage."""
    stages = [
        asdict(stage) | {"seconds": stage.seconds, "interval": stage.interval}
        for stage in report.stages
    ]
    content = {
        "num_rows": report.num_rows,
        "num_segments": report.num_segments,
        "num_gpus": report.num_gpus,
        "stages": stages,
        "notes": report.notes,
        "recipe": report.recipe.model_dump(mode="json"),
        "provenance": provenance.provenance(),
    }
    storage.write_json(storage.join(run_folder, RESULT), content)


@dataclass(frozen=True)
class _Probed:
    """The parts of RUN/probe.json that an extrapolation needs."""

    num_gpus: int
    stages: list[StageForecast]
    recipe: dict[str, Any]
    provenance: dict[str, Any]


def replace_by_probe(
    recipe: Recipe,
    run_folder: str,
    hardware: Hardware,
    estimates: list[estimate.StageEstimate],
) -> tuple[list[estimate.StageEstimate], str]:
    """Replace estimates by the hours in RUN/probe.json, with a line that says so.

    Estimates stay unless the probe had the same settings, engines and training workers and, on
    GPUs, as many GPUs as `hardware`. Finished stages stay in any case.

    Raises:
        UserError: the file is damaged.
    """
    result = storage.read_as(storage.join(run_folder, RESULT), _Probed)
    if result is None:
        return estimates, ""
    when = result.provenance.get("finished_at", "another day")
    try:
        probed = Recipe.model_validate(result.recipe)
    except ValidationError:
        return estimates, f"The probe of {when} is not used: another version wrote its recipe."
    if _cost_settings(probed) != _cost_settings(recipe):
        return estimates, f"The probe of {when} is not used: its settings or placement differ."
    if result.num_gpus not in (0, hardware.num_gpus):
        return estimates, f"The probe of {when} is not used: it had {result.num_gpus} GPUs."
    forecasts = {stage.path: stage for stage in result.stages}
    rows = [
        row
        if row.fits == "done" or row.path not in forecasts
        else _measured(row, forecasts[row.path])
        for row in estimates
    ]
    return (
        rows,
        f"`measured`: by `humpback probe`, {when}, as the recipe places it; 95% of samples.",
    )


def _cost_settings(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.settings, recipe.placement.engine, recipe.placement.training


def _measured(row: estimate.StageEstimate, stage: StageForecast) -> estimate.StageEstimate:
    low, high = (clock.duration(seconds) for seconds in stage.interval)
    fits = f"measured: {low} to {high}"
    layout = f"{stage.num_units:,} {stage.unit} at {stage.unit_seconds:.3g} s"
    return replace(row, fits=fits, layout=layout, hours=stage.seconds / 3600)
