"""The figures of records as types: those that people see, by the kind of the stage.

A record may be damaged, or of another version of the program. So every figure may be missing, and
one that is not of its type is left out and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, ValidationError, field_validator

from humpback_ray import storage
from humpback_ray.evaluation.alpaca_length import AlpacaLength
from humpback_ray.evaluation.win_rates import is_enough_judged
from humpback_ray.figures.types import Control, Difference, Game, Strength
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.benchmark import Benchmark
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.other_answers import OtherAnswers
from humpback_ray.stages.prefilter import PrefilterModel, SampleCandidates, SampleRatings
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.safety_answers import SafetyAnswers
from humpback_ray.stages.segments import Segments

Count = NonNegativeInt | None
Interval = tuple[float, float, float]  # value, low, high


class _Nothing(BaseModel):
    """No figure that people see."""


class _OfSegments(BaseModel):
    num_documents: Count = None
    opt_out: dict[str, NonNegativeInt] = {}
    licence: dict[str, NonNegativeInt] = {}
    truncated: dict[str, NonNegativeInt] = {}


class _OfTraining(BaseModel):
    num_examples: Count = None
    num_steps: Count = None
    num_passes: NonNegativeFloat | None = None


class _Engines(BaseModel):
    num_engines: Count = None
    num_restarts: Count = None
    longest_start_seconds: NonNegativeFloat | None = None
    idle_share_before_tail: float | None = None


class _OfGeneration(BaseModel):
    num_prompt_tokens: Count = None
    num_generated_tokens: Count = None
    prefix_cache_share: float | None = None
    engines: _Engines | None = None


class _OfEvaluation(_OfGeneration):
    num_answers: Count = None
    mean_answer_characters: NonNegativeFloat | None = None
    held_out_loss: float | None = None


class _OfSelection(BaseModel):
    num_scored: Count = None
    num_segments: Count = None
    num_selected: Count = None
    mean_score: float | None = None
    lowest_selected_score: float | None = None


class _Refused(BaseModel):
    num_prompts: NonNegativeInt
    num_answers: NonNegativeInt
    num_refused: NonNegativeInt
    refused: float | None
    low: float | None
    high: float | None


class _OfSafety(_OfGeneration):
    harmful: _Refused | None = None
    harmless: _Refused | None = None


class _Metric(BaseModel):
    metric: str
    value: float | None
    stderr: float | None
    higher_is_better: bool | None


class _Task(BaseModel):
    task: str
    group: str
    n: NonNegativeInt
    metrics: list[_Metric]


class _OfBenchmark(BaseModel):
    lm_eval_version: str = ""
    backend: str = ""
    tasks: list[_Task] = []


class _Kept(BaseModel):
    score: float
    num_good: NonNegativeInt
    of_cut: dict[str, Interval]


class _OfPrefilter(BaseModel):
    num_scored: Count = None
    rank_correlation: Interval | None = None
    mean_score: float | None = None
    mean_score_of_cut: dict[str, float] = {}
    recall: dict[str, _Kept] = {}


class _OfJudge(_OfGeneration):
    judge: str = ""
    verdicts_by: str = ""
    num_prompts: NonNegativeInt = 0
    controls: list[Control] = []
    games: list[Game] = []
    reference: str = ""
    differences: list[Difference] = []
    strengths: list[Strength] = []
    smallest_difference: float | None = None
    alpaca_eval: AlpacaLength | None = None

    @field_validator("games", "controls")
    @classmethod
    def _score_where_enough_is_judged(cls, scored: list[Any]) -> list[Any]:
        for each in scored:
            is_enough = is_enough_judged(each.num_judged, each.num_prompts)
            if is_enough != (each.win_rate is not None):
                raise ValueError(
                    f"win rate {each.win_rate} with {each.num_judged} of {each.num_prompts} prompts"
                )
        return scored


class _Provenance(BaseModel):
    versions: dict[str, str] = {}
    commit: str | None = None
    python: str | None = None
    machine: str | None = None


_BY_KIND: dict[str, type[BaseModel]] = {
    Segments.kind: _OfSegments,
    Finetune.kind: _OfTraining,
    Augment.kind: _OfGeneration,
    Rate.kind: _OfGeneration,
    SampleCandidates.kind: _OfGeneration,
    SampleRatings.kind: _OfGeneration,
    Evaluate.kind: _OfEvaluation,
    OtherAnswers.kind: _OfEvaluation,
    SafetyAnswers.kind: _OfSafety,
    Curate.kind: _OfSelection,
    Judge.kind: _OfJudge,
    Benchmark.kind: _OfBenchmark,
    PrefilterModel.kind: _OfPrefilter,
}


def readable_figures(kind: str, figures: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The figures of a record without the damaged ones, which the second value names."""
    return _readable(_BY_KIND.get(kind, _Nothing), figures)


def readable_provenance(provenance: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The provenance of a record without the damaged parts, which the second value names."""
    return _readable(_Provenance, provenance)


def _readable(kind: type[BaseModel], content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    try:
        read = kind.model_validate(content)
    except ValidationError as error:
        damaged = {entry["loc"][0] for entry in error.errors()}
        rest = {name: value for name, value in content.items() if name not in damaged}
        return _readable(kind, rest)[0], storage.misfits(error)
    return {**content, **read.model_dump(exclude_unset=True)}, ""
