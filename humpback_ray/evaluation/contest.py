"""The models, prompts and answers that a judgement is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from humpback_ray.errors import UserError
from humpback_ray.evaluation.alpaca_files import file_name
from humpback_ray.evaluation.games import Answers, Contestants, Prompt
from humpback_ray.evaluation.model_outputs import ModelOutputs, prompt_key
from humpback_ray.rows import Evaluated

REFERENCE_WITHOUT_FILE = "M_0"


@dataclass(frozen=True)
class Contest:
    """Who plays, and with which answers.

    Args:
        answers: by model.
        num_repeated: prompts that repeat another one's text; the first of them counts.
        left_out: entries of published files that do not count, by model and reason.
    """

    contestants: Contestants
    prompts: Sequence[Prompt]
    answers: Mapping[str, Answers]
    num_repeated: int
    left_out: Mapping[str, int]


def contest_of(
    evaluated: Mapping[str, Sequence[Evaluated]],
    published: Sequence[ModelOutputs],
    *,
    has_reference: bool,
    others: Mapping[str, Sequence[Evaluated]] | None = None,
) -> Contest:
    """The contest of a run's models, of published outputs and of models of another origin.

    Args:
        evaluated: rows of ANSWER tasks by model, in the order of training; all of the same prompts.
        published: the reference first, if there is one.
        has_reference: the first of the published models is the reference; else M_0 is.
        others: like `evaluated`, of models that the run has not trained.

    Raises:
        UserError: two models have the same name, or the same folder of AlpacaEval's files.
    """
    asked = next(iter(evaluated.values()))
    prompts = _prompts(asked)
    ids = {prompt.prompt_id for prompt in prompts}
    answers: dict[str, Answers] = {
        name: {
            row.task_id: row.output for row in rows if row.finish.is_answer and row.task_id in ids
        }
        for name, rows in {**evaluated, **(others or {})}.items()
    }
    for outputs in published:
        if file_name(outputs.model) in map(file_name, answers):
            raise UserError(
                f"the outputs {outputs.path} are of a model {outputs.model!r}, and another one in "
                "this evaluation has that name, or one that gives the same name of a folder: "
                "change `generator` in the file"
            )
        answers[outputs.model] = {
            prompt.prompt_id: outputs.by_prompt[prompt_key(prompt.instruction)].text
            for prompt in prompts
            if prompt_key(prompt.instruction) in outputs.by_prompt
        }
    own, rivals = list(evaluated), [*(outputs.model for outputs in published), *(others or ())]
    of_run = REFERENCE_WITHOUT_FILE if REFERENCE_WITHOUT_FILE in own else own[0]
    contestants = Contestants(own, rivals, rivals[0] if has_reference else of_run)
    left_out = {
        f"{outputs.model}: {reason}": number
        for outputs in published
        for reason, number in outputs.left_out.items()
    }
    return Contest(contestants, prompts, answers, len(asked) - len(prompts), left_out)


def _prompts(asked: Sequence[Evaluated]) -> list[Prompt]:
    """Each prompt once, ordered by id; of equal texts the first in `asked` counts."""
    by_text = {
        row.instruction: Prompt(row.task_id, row.dataset, row.instruction)
        for row in reversed(asked)
    }
    return sorted(by_text.values(), key=lambda prompt: prompt.prompt_id)
