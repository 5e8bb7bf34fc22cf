"""Figures of models: held-out losses, trainings, the work of engines, and a judge's verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from statistics import median
from typing import Any, TypeVar

from humpback_ray.errors import UserError
from humpback_ray.evaluation.alpaca_length import AlpacaLength
from humpback_ray.evaluation.estimates import Estimate, weighted_mean
from humpback_ray.evaluation.refusals import ModelRefusals, refusals_of
from humpback_ray.execution.clock import parse_time
from humpback_ray.execution.metrics import read_metrics
from humpback_ray.execution.stage import METRICS
from humpback_ray.figures.stage_records import StageRecords
from humpback_ray.figures.stage_rows import scan_rows
from humpback_ray.figures.types import (
    Control,
    Difference,
    Game,
    GenerationFigures,
    JudgeFigures,
    ModelLoss,
    StageFigures,
    Strength,
    TrainingFigures,
)
from humpback_ray.rows import Direction, Evaluated, TaskKind
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.generating import GeneratingStage
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.other_answers import OtherAnswers
from humpback_ray.stages.prefilter import SampleCandidates, SampleRatings
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.safety_answers import SafetyAnswers

# The stages that ask a model for their rows.
GENERATING: tuple[type[GeneratingStage], ...] = (
    SampleCandidates, SampleRatings, Augment, Rate, Evaluate, SafetyAnswers, OtherAnswers, Judge,
)  # fmt: skip
MAX_POINTS = 120  # of a curve
TAIL_ROWS = 0.98  # the tail of a pass begins when so many of its rows are saved

HeldOutLosses = dict[str, tuple[float, int]]  # (nats per token, tokens) by id of the pair


def losses_of(records: StageRecords) -> list[ModelLoss]:
    """The held-out loss of each model, and its change from the model before on the same pairs."""
    found: list[ModelLoss] = []
    before: HeldOutLosses = {}
    for stage in records.of(Evaluate):
        with records.leaving_out():
            losses = held_out_losses(records.folder(stage, "rows"))
            if losses:
                found.append(_loss(stage, losses, before, found[-1].model if found else ""))
                before = losses
    return found


def _loss(
    stage: StageFigures, losses: HeldOutLosses, before: HeldOutLosses, name_before: str
) -> ModelLoss:
    loss = weighted_mean(*_columns(losses.values()))
    if loss is None:
        raise UserError(f"the rows of {stage.path} have no token of a held-out answer")
    shared = [name for name in losses if name in before]
    changes = [(losses[name][0] - before[name][0], losses[name][1]) for name in shared]
    return ModelLoss(
        str(stage.settings.get("name", stage.path)),
        loss,
        sum(num_tokens for _, num_tokens in losses.values()),
        weighted_mean(*_columns(changes)),
        name_before,
        stage.figures.get("num_answers") or 0,
        stage.figures.get("mean_answer_characters"),
    )


def held_out_losses(folder: str) -> HeldOutLosses:
    """The losses in the rows of an evaluation."""
    columns = ["task_id", "kind", "loss", "num_loss_tokens"]
    return {
        name: (loss, num_tokens)
        for name, kind, loss, num_tokens in scan_rows(folder, Evaluated, columns)
        if kind == TaskKind.LOSS and loss is not None
    }


def _columns(pairs: Any) -> tuple[list[float], list[float]]:
    pairs = list(pairs)
    return [value for value, _ in pairs], [weight for _, weight in pairs]


# --- trainings ------------------------------------------------------------------------------------


def trainings_of(records: StageRecords) -> list[TrainingFigures]:
    """Every finished training: its loss by step, its speed."""
    names = records.model_names()
    return [_training(records, stage, names) for stage in records.of(Finetune)]


def _training(
    records: StageRecords, stage: StageFigures, names: Mapping[str, str]
) -> TrainingFigures:
    lines = _metrics(records, stage)
    # A restart repeats steps; the last line of a step is the one that the weights saw.
    by_step = {int(line["step"]): line["loss"] for line in lines if {"step", "loss"} <= line.keys()}
    return TrainingFigures(
        stage.path,
        names.get(stage.path) or _name_by_direction(records, stage),
        stage.figures.get("num_examples"),
        stage.figures.get("num_steps"),
        thinned(sorted(by_step.items())),
        _median(lines, "tokens_per_second"),
        max((line["peak_memory_gib"] for line in lines if "peak_memory_gib" in line), default=None),
        _median(lines, "mfu"),
    )


def _name_by_direction(records: StageRecords, stage: StageFigures) -> str:
    """M_yx for the backward model, which no evaluation names; else the stage's path."""
    examples = next((s for s in records.stages if s.path == stage.inputs.get("examples")), None)
    is_backward = examples and examples.settings.get("direction") == Direction.BACKWARD
    return "M_yx" if is_backward else stage.path


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MAX_POINTS points: each is the last step of a group, and the group's mean."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _metrics(records: StageRecords, stage: StageFigures) -> list[dict[str, Any]]:
    """The lines of a stage's metrics; their damage is noted."""
    read = read_metrics(records.folder(stage, METRICS))
    if read.problem:
        records.note(f"{stage.path}/{METRICS}: {read.problem}")
    return read.lines


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if name in line]
    return median(values) if values else None


# --- engines --------------------------------------------------------------------------------------


def generations_of(records: StageRecords) -> list[GenerationFigures]:
    """The work of engines or of an endpoint in every stage that has asked a model."""
    kinds = {each.kind for each in GENERATING}
    stages = [s for s in records.stages if s.kind in kinds]
    return [_generation(records, stage) for stage in stages if stage.num_rows is not None]


def _generation(records: StageRecords, stage: StageFigures) -> GenerationFigures:
    figures, seconds = stage.figures, stage.seconds or 0.0
    engines = figures.get("engines") or {}
    idle = engines.get("idle_share_before_tail")
    return GenerationFigures(
        stage.path,
        stage.num_rows or 0,
        seconds,
        (stage.num_rows or 0) / seconds if seconds else None,
        figures.get("num_prompt_tokens"),
        figures.get("num_generated_tokens"),
        figures.get("prefix_cache_share"),
        engines.get("num_engines"),
        engines.get("num_restarts"),
        engines.get("longest_start_seconds"),
        None if idle is None else 1 - idle,
        _tail_seconds(_metrics(records, stage), parse_time(stage.finished_at)),
    )


def _tail_seconds(lines: list[dict[str, Any]], end: datetime | None) -> float | None:
    """From the first line of metrics with 98% of the rows to the stage's end."""
    for line in lines:
        if line.get("of") and line.get("rows", 0) >= TAIL_ROWS * line["of"]:
            begun = parse_time(line.get("time"))
            return max((end - begun).total_seconds(), 0.0) if begun and end else None
    return None


# --- judges ---------------------------------------------------------------------------------------

Entry = TypeVar("Entry", Control, Difference, Game, Strength)


def judges_of(records: StageRecords) -> list[JudgeFigures]:
    """The figures of a run's judges, out of their records.

    Raises:
        UserError: a judge's record lacks a figure.
    """
    stages = [s for s in records.stages if s.kind == Judge.kind and s.num_rows is not None]
    return [judge_figures(stage.path, stage.figures) for stage in stages]


def judge_figures(path: str, figures: Mapping[str, Any]) -> JudgeFigures:
    """The figures of a judge's record, as `readable_figures` leaves them.

    Raises:
        UserError: one of them is missing, so none counts.
    """
    try:
        return JudgeFigures(
            path,
            str(figures["judge"]),
            str(figures["verdicts_by"]),
            int(figures["num_prompts"]),
            [_entry(Control, entry) for entry in figures["controls"]],
            [_entry(Game, entry) for entry in figures["games"]],
            str(figures["reference"]),
            [_entry(Difference, entry) for entry in figures["differences"]],
            [_entry(Strength, entry) for entry in figures["strengths"]],
            figures["smallest_difference"],
            AlpacaLength(**found) if (found := figures.get("alpaca_eval")) else None,
        )
    except KeyError as error:
        raise UserError(
            f"the record of {path} lacks {error}: it is damaged, or another version of this "
            "program wrote it"
        ) from error


def _entry(kind: type[Entry], entry: Mapping[str, Any]) -> Entry:
    return kind(**{name: entry[name] for name in kind.__dataclass_fields__})


def estimate_of(game: Game) -> Estimate | None:
    """A game's win rate as a figure; None where too few prompts are judged."""
    if game.win_rate is None:
        return None
    return Estimate(game.win_rate, game.num_judged, game.low, game.high)


# --- refusals -------------------------------------------------------------------------------------


def refusals_of_models(records: StageRecords) -> list[ModelRefusals]:
    """The refusals of every model that has answered the safety prompts, the base first."""
    found = []
    for stage in records.of(SafetyAnswers):
        with records.leaving_out():
            found.append(refusals_of(str(stage.settings.get("name", stage.path)), stage.figures))
    return found
