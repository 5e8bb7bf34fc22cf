"""What a probe's sample says of a whole run: arithmetic over records, no cluster.

Seconds of a stage of the real run = fixed + number of rows or steps x seconds of each:

- generating: an engine's busy time by row, divided among the engines; fixed is the rest, mostly
  starting. Engines are taken not to slow each other down, which benchmarks/scaling.py measures.
- training: seconds by token, its median over the steps but the first, times the tokens of a batch;
  checkpoints in the number that the real training makes. Examples of other lengths than those
  measured, as in the iterations, are taken to cost by token what those do.
- the rest (seed, segments, examples): as recorded.

The interval is a 95% interval of sampling alone: of the rows' tokens in generating stages, of the
steps' seconds by token in training. It does not contain what changes between the probe and the run:
noise of the machines, failures, other lengths of what better trained models write, a share of
selected pairs other than the expected one.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.execution import clock, provenance
from humpback_ray.execution.stage import StageRecord
from humpback_ray.method.schedule import schedule
from humpback_ray.planning import estimate
from humpback_ray.sizing.hardware import Hardware

RESULT = "probe.json"  # in the run's folder
Records = Mapping[str, StageRecord]  # by path
# Half widths of a 95% interval in standard errors, by the number of values from 2 on (Student's t).
HALF_WIDTHS = (12.7, 4.3, 3.2, 2.8, 2.6, 2.4, 2.4, 2.3, 2.3)


@dataclass(frozen=True)
class StageForecast:
    """A stage of the real run: fixed + number of units x seconds of each."""

    path: str
    fixed_seconds: float
    unit: str = ""  # rows, steps, or nothing
    num_units: int = 0
    unit_seconds: float = 0.0
    relative_error: float = 0.0  # half width of the 95% interval of `unit_seconds`
    is_done: bool = False  # in the run itself

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
    """What a probe has brought back."""

    records: Records  # of the probe's stages; of those taken over from the run, the run's
    steps: Mapping[str, Sequence[Mapping[str, Any]]]  # records of a training's steps, by path
    row_errors: Mapping[str, float]  # relative error of the tokens of a row, by path
    web_tokens: float  # mean of a candidate as a training example
    num_rows: int  # segments drawn
    num_segments: int  # segments of the run
    done: Records  # of the run's own finished stages


@dataclass(frozen=True)
class Report:
    """Every stage of the real run, in order, and what a person must know beside."""

    recipe: Recipe
    num_rows: int
    num_segments: int
    num_gpus: int  # of the cluster: all are paid for as long as the run lasts
    stages: list[StageForecast]
    notes: list[str]


# --- arithmetic -----------------------------------------------------------------------------------


def relative_error(values: Sequence[float]) -> float:
    """Half width of the 95% interval of the mean of these values, as a share of it."""
    if len(values) < 2:
        return 1.0
    mean, place = statistics.mean(values), len(values) - 2
    width = HALF_WIDTHS[place] if place < len(HALF_WIDTHS) else 1.96
    return width * statistics.stdev(values) / math.sqrt(len(values)) / mean if mean else 0.0


def extrapolate(recipe: Recipe, kinds: Mapping[str, str], sample: Sample) -> list[StageForecast]:
    """Every stage of the real run as the sample says.

    Args:
        recipe: of the run, not shortened.
        kinds: kind of every stage of the run by its path, in order.
        sample: what the probe brought back.
    """
    stages = []
    for path, kind in kinds.items():
        if kind in ("augment", "rate", "evaluate"):
            stage = _generating(recipe, path, kind, sample)
        elif kind == "finetune":
            stage = _training(recipe, path, sample)
        else:
            record = sample.done.get(path) or sample.records.get(_stand_in(path))
            stage = StageForecast(path, record.seconds if record else 0.0)
        stages.append(replace(stage, is_done=path in sample.done))
    return _overlapped(stages) if recipe.placement.engine.one_stream else stages


def _stand_in(path: str) -> str:
    """The probe's stage that a stage is measured by: all iterations and all models cost alike."""
    if path.startswith("evaluation/"):
        return "evaluation/M_0"
    path = re.sub(r"^iter-\d+/", "iter-1/", path)
    return "forward-0/model" if path == "iter-1/model" else path


def _generating(recipe: Recipe, path: str, kind: str, sample: Sample) -> StageForecast:
    record = sample.records[_stand_in(path)]
    engine, num_rows = recipe.placement.engine, record.num_rows
    if kind != "evaluate":
        num_rows = sample.num_segments * recipe.settings.num_candidates
    engines = record.figures.get("engines")
    # Behind an endpoint are no engines of ours: rows come at its rate.
    busy = min(engines["busy_seconds"] if engines else record.seconds, record.seconds)
    # A batch goes to one engine.
    num_engines = min(engine.max_engines, -(-num_rows // engine.rows_per_batch)) if engines else 1
    return StageForecast(
        path,
        fixed_seconds=record.seconds - busy,
        unit="rows",
        num_units=num_rows,
        unit_seconds=busy / record.num_rows / num_engines,
        # All prompts of an evaluation are asked, so nothing of it is drawn.
        relative_error=sample.row_errors.get(_stand_in(path), 0.0),
    )


def _training(recipe: Recipe, path: str, sample: Sample) -> StageForecast:
    record, steps = sample.records[_stand_in(path)], sample.steps[_stand_in(path)]
    rates = [1 / step["tokens_per_second"] for step in steps[1:] or steps]
    token_seconds = statistics.median(rates)
    saves = [step["checkpoint_seconds"] for step in steps if step["checkpoint_seconds"]]
    num_tokens = sum(step["tokens_per_second"] * step["seconds"] for step in steps)
    num_examples, mean_tokens = _examples(recipe, path, sample)
    batch_size, num_steps = schedule(num_examples, estimate.training_settings(recipe, path))
    num_saves = (num_steps - 1) // recipe.placement.training.checkpoint_every
    saving = num_saves * statistics.mean(saves) if saves else 0.0
    return StageForecast(
        path,
        fixed_seconds=max(record.seconds - sum(saves) - num_tokens * token_seconds, 0.0),
        unit="steps",
        num_units=num_steps,
        unit_seconds=batch_size * mean_tokens * token_seconds + saving / num_steps,
        relative_error=relative_error(rates),
    )


def _examples(recipe: Recipe, path: str, sample: Sample) -> tuple[int, float]:
    """Number of a training's examples in the real run, and their mean tokens."""
    figures = sample.records[_stand_in(path)].figures
    num_examples, num_tokens = figures["num_examples"], figures["num_tokens"]
    if path == "base/model" and path not in sample.done:  # pieces of the drawn segments
        share = sample.num_rows / sample.num_segments
        return round(num_examples / share), num_tokens / num_examples
    if path.startswith("iter-"):
        num_web = estimate.num_selected(recipe.settings.selection, sample.num_segments)
        num_examples += num_web
        num_tokens += num_web * sample.web_tokens
    return num_examples, num_tokens / num_examples


def _overlapped(stages: list[StageForecast]) -> list[StageForecast]:
    """The first rating while the candidates come: the slower of the two, and nothing after it."""
    (rating,) = (stage for stage in stages if stage.path == "iter-1/rated")
    changes: dict[str, StageForecast] = {rating.path: StageForecast(rating.path, 0.0)}
    (candidates,) = (stage for stage in stages if stage.path == "candidates")
    slower = max(candidates, rating, key=lambda stage: stage.unit_seconds)
    changes["candidates"] = replace(slower, path="candidates", is_done=candidates.is_done)
    return [changes.get(stage.path, stage) for stage in stages]


# --- RUN/probe.json, and what `humpback plan` takes from it ---------------------------------------


def write(report: Report, run_folder: str) -> None:
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


def replace_by_probe(
    recipe: Recipe,
    run_folder: str,
    hardware: Hardware,
    estimates: list[estimate.StageEstimate],
) -> tuple[list[estimate.StageEstimate], str]:
    """Estimates with the hours of RUN/probe.json in their place, and a line that says so.

    Only where the probe was of the same settings, engines and training workers, and, on GPUs, of
    as many as `hardware` has. Finished stages stay as they are.
    """
    found = storage.read_json(storage.join(run_folder, RESULT))
    if found is None:
        return estimates, ""
    probed, when = Recipe.model_validate(found["recipe"]), found["provenance"]["finished_at"]
    if _measured_part(probed) != _measured_part(recipe):
        return estimates, f"The probe of {when} is not used: its settings or placement differ."
    if found["num_gpus"] not in (0, hardware.num_gpus):
        return estimates, f"The probe of {when} is not used: it had {found['num_gpus']} GPUs."
    stages = {stage["path"]: stage for stage in found["stages"]}
    rows = [
        row if row.fits == "done" or row.path not in stages else _measured(row, stages[row.path])
        for row in estimates
    ]
    return (
        rows,
        f"`measured`: by `humpback probe`, {when}, as the recipe places it; 95% of samples.",
    )


def _measured_part(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.settings, recipe.placement.engine, recipe.placement.training


def _measured(row: estimate.StageEstimate, stage: Mapping[str, Any]) -> estimate.StageEstimate:
    low, high = (clock.duration(seconds) for seconds in stage["interval"])
    fits = f"measured: {low} to {high}"
    layout = f"{stage['num_units']:,} {stage['unit']} at {stage['unit_seconds']:.3g} s"
    return replace(row, fits=fits, layout=layout, hours=stage["seconds"] / 3600)
