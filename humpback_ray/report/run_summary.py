"""The results of a finished run: its models, its self-curation, and the paths to look at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from humpback_ray.errors import UserError
from humpback_ray.evaluation.refusals import ModelRefusals, refusals_of
from humpback_ray.execution.stage import Stage, StageRecord
from humpback_ray.figures.models import judge_figures
from humpback_ray.figures.record_figures import readable_figures
from humpback_ray.figures.types import JudgeFigures
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import OUTPUTS, Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.safety_answers import SafetyAnswers

# Figures that a summary cannot do without.
SHOWN: Mapping[type[Stage], tuple[str, ...]] = {
    Finetune: ("num_examples",),
    Curate: ("num_scored", "mean_score", "num_selected", "lowest_selected_score"),
    Evaluate: ("held_out_loss",),
}


@dataclass(frozen=True)
class ModelResult:
    """A model of a run and its evaluation."""

    name: str
    training: Mapping[str, Any] | None  # figures; None: the run does not train the model
    held_out_loss: float | None  # nats


@dataclass(frozen=True)
class RunSummary:
    """The results of a finished run. Paths lie below the run's folder."""

    models: list[ModelResult]
    selections: list[Mapping[str, Any]]  # figures of each iteration
    seconds: float
    rated: str  # of the last iteration, like the next two
    examples: str
    model: str
    answers: str  # files of all evaluations
    judgement: JudgeFigures | None = None  # None: the run has no judge
    refusals: Sequence[ModelRefusals] = ()


def summarize(stages: Sequence[Stage], records: Mapping[str, StageRecord]) -> RunSummary:
    """Summarize the records of a run, in which every stage is done.

    Raises:
        UserError: a record is damaged, or another version of the program wrote it.
    """
    figures = {s.path: _figures(s, records[s.path]) for s in stages if s.path in records}
    evaluations = [stage for stage in stages if isinstance(stage, Evaluate)]
    selections = [stage for stage in stages if isinstance(stage, Curate)]
    trainings = [stage for stage in stages if isinstance(stage, Finetune)]
    last = selections[-1]
    model = next(stage for stage in trainings if stage.examples is last)
    judgement = next((stage for stage in stages if isinstance(stage, Judge)), None)
    return RunSummary(
        [_model_result(evaluation, figures) for evaluation in evaluations],
        [figures[selection.path] for selection in selections],
        sum(record.seconds for record in records.values()),
        last.rated.path,
        last.path,
        model.path,
        str(PurePosixPath(evaluations[-1].path).with_name("*") / OUTPUTS),
        judge_figures(judgement.path, figures[judgement.path]) if judgement else None,
        [
            refusals_of(stage.name, figures[stage.path])
            for stage in stages
            if isinstance(stage, SafetyAnswers)
        ],
    )


def _figures(stage: Stage, record: StageRecord) -> Mapping[str, Any]:
    """The figures of a record, of which none may be damaged and none that is shown may lack."""
    figures, damage = readable_figures(stage.kind, record.figures)
    lacking = [name for name in SHOWN.get(type(stage), ()) if name not in figures]
    if damage or lacking:
        problem = damage or f"{lacking[0]} is missing"
        raise UserError(
            f"the run is done, but the record of {stage.path} is damaged or of another version of "
            f"this program ({problem}): `humpback report` shows the rest"
        )
    return figures


def _model_result(evaluation: Evaluate, figures: Mapping[str, Mapping[str, Any]]) -> ModelResult:
    model = evaluation.model
    training = figures[model.path] if isinstance(model, Finetune) else None
    return ModelResult(evaluation.name, training, figures[evaluation.path]["held_out_loss"])
