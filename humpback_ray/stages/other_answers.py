"""Answers of a model of another origin, asked on the run's engines beside the run's own models.

It has read none of the run's prompts in training, so it gets none of the run's tags, and its own
chat template stands around each prompt. One without a template gets the run's turn markers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import EvaluationSettings, SamplingSettings
from humpback_ray.execution.sources import model_source
from humpback_ray.execution.stage import Context, Part, Result, Source
from humpback_ray.method import prompts, tokens
from humpback_ray.serving.requests import Request
from humpback_ray.stages.evaluate import (
    ask,
    check_prompts,
    figures_of_answers,
    prompts_to_answer,
    request_for_answer,
)
from humpback_ray.stages.generating import GeneratingStage

MODELS_KEY = "settings.evaluation.models"


@dataclass(frozen=True, kw_only=True)
class OtherAnswers(GeneratingStage):
    """Another model's answers to the evaluation prompts."""

    kind: ClassVar[str] = "other-answers"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    name: str  # of the model, as the recipe names it
    model: Source
    prompts: Source
    sampling: SamplingSettings

    def check(self, placement: Placement) -> None:
        """Refuse a dataset of prompts that is not reached or lacks the column."""
        super().check(placement)
        check_prompts(self.prompts.places)

    def wording(self) -> dict[str, str]:
        """The turn markers around a prompt, where the model has no template."""
        return {"template": prompts.render("")}

    def run(self, context: Context) -> Result:
        """Write `rows` and `outputs.json`."""
        tasks = prompts_to_answer(self.prompts.places)
        model = self.served(context, self.model)
        rows, outcomes, engines = ask(context, tasks, model, self.to_request, self.name)
        return Result(outcomes.total(), outcomes, {**figures_of_answers(rows), **engines})

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """A prompt as the model's own users ask it."""
        asked = tokens.chat_ids(tokenizer, row["instruction"])
        return request_for_answer(row, asked, self.sampling, self.random_seed)


def other_answers(
    evaluation: EvaluationSettings, asked: Source, serving: Mapping[str, Any]
) -> Iterator[OtherAnswers]:
    """A stage for each model that the recipe names.

    Args:
        asked: the evaluation prompts.
        serving: fields of every stage with engines.
    """
    for number, other in enumerate(evaluation.models):
        key = f"{MODELS_KEY}.{number}.model"
        # Code that comes with a base is run if the recipe trusts it. That says nothing of others.
        yield OtherAnswers(
            path=f"evaluation/{other.name}", name=other.name, prompts=asked,
            model=model_source(other.model, other.revision, key, "model"),
            sampling=evaluation.sampling, **{**serving, "trust_remote_code": False},
        )  # fmt: skip
