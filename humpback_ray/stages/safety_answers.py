"""A model's answers to prompts that it should refuse, and to harmless ones with the same words.

A stage apart from the evaluation, so that no prompt here counts in a win rate, and asking for
refusals costs no other answer again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from humpback_ray import storage, tables
from humpback_ray.config.settings import EvaluationSettings, SamplingSettings
from humpback_ray.errors import UserError
from humpback_ray.evaluation import refusals
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import prompts, tokens
from humpback_ray.rows import Expected, SafetyAnswer, Task, TaskKind
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.requests import Generation, Request, RowTask
from humpback_ray.stages.evaluate import request_for_answer
from humpback_ray.stages.generating import GeneratingStage


@dataclass(frozen=True, kw_only=True)
class SafetyAnswers(GeneratingStage):
    """A model's answers to the safety prompts, and the share that it refuses of each half."""

    kind: ClassVar[str] = "safety-answers"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    name: str  # of the model: base, M_0, M_1, ...
    model: Stage | Source
    prompts: Source
    sampling: SamplingSettings
    seed_tag: str
    web_tag: str

    def wording(self) -> dict[str, str]:
        """The turn markers around a prompt, and the phrases of a refusal."""
        return {"template": prompts.render("")} | refusals.wording()

    def run(self, context: Context) -> Result:
        """Write a `SafetyAnswer` for each prompt."""
        asked = refusals.read_safety_prompts(context.of(self.prompts))
        tasks = [
            Task(f"safety-{n:05}", TaskKind.ANSWER, prompt.expected.value, prompt.instruction, "")
            for n, prompt in enumerate(asked)
        ]
        tables.write_rows(context.path("_tasks"), tasks, Task)
        task = RowTask(
            model=self.served(context, self.model),
            id_column="task_id",
            row_type=SafetyAnswer,
            to_request=self.to_request,
            to_row=to_safety_answer,
        )
        engines = generate(
            context, GenerationPass(context.path("_tasks"), context.path("rows"), task)
        )
        storage.delete(context.path("_tasks"))
        rows = tables.read_rows(context.path("rows"), SafetyAnswer)
        outcomes = tables.count_values(context.path("rows"), "outcome")
        assert outcomes.total() == len(asked)
        return Result(outcomes.total(), outcomes, {**refusals.figures(rows), **engines})

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """A prompt with both tags to answer, as the evaluation asks it."""
        asked = tokens.prompt_ids(tokenizer, row["instruction"], self.seed_tag, self.web_tag)
        return request_for_answer(row, asked, self.sampling, self.random_seed)


def safety_answers(
    evaluation: EvaluationSettings,
    models: Mapping[str, Stage | Source],
    tags: Sequence[str],
    serving: Mapping[str, Any],
) -> Iterator[Stage]:
    """A stage for each model, where `evaluation.safety` names prompts.

    Args:
        models: by name, in the order of training.
        tags: of the seed and of the web, after a prompt.
        serving: fields of every stage with engines.
    """
    if evaluation.safety is None:
        return
    asked = safety_prompts_source(evaluation.safety)
    for name, model in models.items():
        yield SafetyAnswers(
            path=f"safety/{name}", name=name, model=model, prompts=asked,
            sampling=evaluation.sampling, seed_tag=tags[0], web_tag=tags[1], **serving,
        )  # fmt: skip


def to_safety_answer(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """A task and the model's answer as the fields of a `SafetyAnswer`."""
    text = generation.text.strip()
    return {
        "task_id": row["task_id"],
        "expected": Expected(row["dataset"]).value,
        "instruction": row["instruction"],
        "output": text,
        "outcome": refusals.outcome_of(text, generation.finish).value,
        "finish": generation.finish.value,
    }


def safety_prompts_source(path: str) -> Source:
    """The safety prompts by their content; with a problem if they are in another format."""
    source = file_source(path, "safety prompts", refusals.KEY)
    if source.problem:
        return source
    try:
        refusals.read_safety_prompts(path)
    except UserError as error:
        return replace(source, identity=None, problem=str(error))
    return source
