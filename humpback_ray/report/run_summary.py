"""The results of a finished run: its models, its self-curation, and the paths to look at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from humpback_ray.evaluation.refusals import ModelRefusals, refusals_of
from humpback_ray.execution.stage import Stage, StageRecord
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.safety_answers import SafetyAnswers


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
    judgement: Mapping[str, Any] | None = None  # figures; None: the run has no judge
    refusals: Sequence[ModelRefusals] = ()


def summarize(stages: Sequence[Stage], records: Mapping[str, StageRecord]) -> RunSummary:
    """Summarize the records of a run, in which every stage is done."""
    evaluations = [stage for stage in stages if isinstance(stage, Evaluate)]
    selections = [stage for stage in stages if isinstance(stage, Curate)]
    trainings = [stage for stage in stages if isinstance(stage, Finetune)]
    last = selections[-1]
    model = next(stage for stage in trainings if stage.examples is last)
    judgement = next((stage for stage in stages if isinstance(stage, Judge)), None)
    return RunSummary(
        [_model_result(evaluation, records) for evaluation in evaluations],
        [records[selection.path].figures for selection in selections],
        sum(record.seconds for record in records.values()),
        last.rated.path,
        last.path,
        model.path,
        str(PurePosixPath(evaluations[-1].path).with_name("*") / "outputs.json"),
        records[judgement.path].figures if judgement else None,
        [
            refusals_of(stage.name, records[stage.path].figures)
            for stage in stages
            if isinstance(stage, SafetyAnswers)
        ],
    )


def _model_result(evaluation: Evaluate, records: Mapping[str, StageRecord]) -> ModelResult:
    model = evaluation.model
    training = records[model.path].figures if isinstance(model, Finetune) else None
    loss = records[evaluation.path].figures["held_out_loss"]
    return ModelResult(evaluation.name, training, loss)
