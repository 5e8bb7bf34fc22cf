"""The small evaluation of one model: its answers to prompts, its loss on held-out seed answers.

Answers are also written as `outputs.json` in AlpacaEval's format, for its `--model_outputs` and for
people. A prompt that has failed has none, because an empty one would lose in the engine's stead.
(https://github.com/tatsu-lab/alpaca_eval)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from humpback_ray import storage, tables
from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import SamplingSettings
from humpback_ray.corpus import hub_datasets
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import prompts, tokens
from humpback_ray.method.contamination import PromptIndex
from humpback_ray.rows import Evaluated, Finish, SeedPair, Task, TaskKind
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel, row_seed
from humpback_ray.stages.generating import GeneratingStage

# A prompt that leaves less room for its answer is not asked. With half of the context instead, as
# for other requests, the default of 2,048 tokens would refuse long prompts that have room enough.
NEEDED_TOKENS = 512

PROMPTS_KEY = "settings.evaluation.prompts"
OUTPUTS = "outputs.json"


@dataclass(frozen=True, kw_only=True)
class Evaluate(GeneratingStage):
    """A model's answers to the evaluation prompts, and its loss on the held-out pairs."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 5
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    name: str  # of the model: base, M_0, M_1, ...
    model: Stage | Source
    seed: Stage | Source
    prompts: Source
    sampling: SamplingSettings
    seed_tag: str
    web_tag: str

    def check(self, placement: Placement) -> None:
        """Refuse a dataset of prompts that is not reached or lacks the column."""
        super().check(placement)
        check_prompts(self.prompts.places)

    def wording(self) -> dict[str, str]:
        """The turn markers around a prompt."""
        return {"template": prompts.render("")}

    def run(self, context: Context) -> Result:
        """Write `rows` and `outputs.json` of one model."""
        tasks = [
            *prompts_to_answer(self.prompts.places),
            *_pairs_to_score(tables.read_rows(context.of(self.seed, "held_out"), SeedPair)),
        ]
        model = self.served(context, self.model)
        rows, outcomes, engines = ask(context, tasks, model, self.to_request, self.name)
        return Result(outcomes.total(), outcomes, {**_figures(rows), **engines})

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """A prompt with both tags to answer, or a pair as it would be trained on to score."""
        if row["kind"] == TaskKind.LOSS:
            start = tokens.prompt_ids(tokenizer, row["instruction"], self.seed_tag)
            target = tokens.completion_ids(tokenizer, row["response"])
            return Request(start + target, max_tokens=1, score_from=len(start))
        asked = tokens.prompt_ids(tokenizer, row["instruction"], self.seed_tag, self.web_tag)
        return request_for_answer(row, asked, self.sampling, self.random_seed)


def ask(
    context: Context,
    tasks: Iterable[Task],
    model: ServedModel,
    to_request: Callable[[dict[str, Any], Any], Request],
    name: str,
) -> tuple[list[Evaluated], Counter[str], dict[str, Any]]:
    """Write a model's `rows` for some tasks and its `outputs.json`.

    Args:
        to_request: of a task's row and the tokenizer.
        name: of the model.

    Returns:
        The rows, their number by reason of their end, and figures of the engines.
    """
    tables.write_rows(context.path("_tasks"), tasks, Task)
    task = RowTask(
        model=model,
        id_column="task_id",
        row_type=Evaluated,
        to_request=to_request,
        to_row=to_evaluated,
    )
    engines = generate(context, GenerationPass(context.path("_tasks"), context.path("rows"), task))
    storage.delete(context.path("_tasks"))
    rows = tables.read_rows(context.path("rows"), Evaluated)
    storage.write_json(context.path(OUTPUTS), outputs_of(rows, name))
    return rows, tables.count_values(context.path("rows"), "finish"), engines


def request_for_answer(
    row: dict[str, Any], asked: list[int], sampling: SamplingSettings, random_seed: int
) -> Request:
    """The request for an answer to a task's instruction.

    Args:
        asked: the ids of the whole prompt.
    """
    return Request(
        asked,
        max_tokens=sampling.max_tokens,
        needed_tokens=min(sampling.max_tokens, NEEDED_TOKENS),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=row_seed(random_seed, row["task_id"], "evaluate"),
    )


def outputs_of(rows: Sequence[Evaluated], model: str) -> list[dict[str, str]]:
    """A model's answers in AlpacaEval's format."""
    return [
        {
            "dataset": row.dataset,
            "instruction": row.instruction,
            "output": row.output,
            "generator": model,
        }
        for row in answers_in(rows)
    ]


def answers_in(rows: Sequence[Evaluated]) -> list[Evaluated]:
    """The rows of prompts that the model has answered."""
    return [row for row in rows if row.kind is TaskKind.ANSWER and row.finish.is_answer]


def _figures(rows: list[Evaluated]) -> dict[str, float | int | None]:
    scored = [row for row in rows if row.loss is not None]
    num_tokens = sum(row.num_loss_tokens for row in scored)
    # The mean over all tokens of all held-out answers, as in training, not a mean of means.
    total = sum((row.loss or 0.0) * row.num_loss_tokens for row in scored)
    return {
        "held_out_loss": round(total / num_tokens, 4) if num_tokens else None,
        "num_held_out": len(scored),
        "num_held_out_tokens": num_tokens,
        **figures_of_answers(rows),
    }


def figures_of_answers(rows: Sequence[Evaluated]) -> dict[str, int]:
    """The number of a model's answers, and their mean length."""
    lengths = [len(row.output) for row in answers_in(rows)]
    return {
        "num_answers": len(lengths),
        "mean_answer_characters": round(sum(lengths) / len(lengths)) if lengths else 0,
    }


def prompts_source(path: str | tuple[str, ...], key: str = PROMPTS_KEY) -> Source:
    """The evaluation prompts by their content; with a problem if they are no prompts.

    A dataset's prompts are not read here: `check_prompts` looks at them before a run.

    Args:
        key: the setting that names them.
    """
    source = file_source(path, "evaluation prompts", key)
    if source.problem:
        return source
    try:
        read_prompts([place for place in source.places if not is_dataset(place)], key)
    except UserError as error:
        return replace(source, identity=None, problem=str(error))
    return source


def check_prompts(places: Sequence[str], key: str = PROMPTS_KEY) -> None:
    """Refuse datasets that cannot be read as prompts; nothing for files.

    Raises:
        UserError: one is not reached, or has no such config, split or column.
    """
    for place in filter(is_dataset, places):
        address = dataset_address(place)
        hub_datasets.check_columns(address, [address.column or "instruction"], key)


def read_prompts(places: Sequence[str], key: str = PROMPTS_KEY) -> list[dict[str, str]]:
    """Evaluation prompts of files in AlpacaEval's format and of datasets, in their order.

    Args:
        key: the setting that names them, for messages.

    Raises:
        UserError: no such file, not JSON, or not a list of objects with an instruction; or the
            dataset cannot be read, lacks the column, or has another value than a text in it.
    """
    read = (
        _prompts_of_dataset(place, key) if is_dataset(place) else _prompts_of_file(place, key)
        for place in places
    )
    return [prompt for prompts in read for prompt in prompts]


def _prompts_of_file(path: str, key: str) -> list[dict[str, str]]:
    wanted = f'set {key} to a JSON list of {{"dataset", "instruction"}}, as AlpacaEval has'
    text = storage.read_text(path, "evaluation prompts", key).removeprefix("\ufeff")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"evaluation prompts {path} are no JSON ({error}): {wanted}") from error
    if not isinstance(content, list):
        raise UserError(f"evaluation prompts {path} are no list: {wanted}")
    for number, row in enumerate(content):
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise UserError(
                f"evaluation prompts {path}: entry {number} has no text as instruction: {wanted}"
            )
    return [
        {"dataset": str(r.get("dataset", "")), "instruction": r["instruction"]} for r in content
    ]


def _prompts_of_dataset(location: str, key: str) -> list[dict[str, str]]:
    check_prompts([location], key)
    address = dataset_address(location)
    column = address.column or "instruction"
    prompts = []
    for number, row in enumerate(hub_datasets.read_rows(location, key)):
        if not isinstance(row[column], str):
            raise UserError(
                f"evaluation prompts {location}: row {number} has no text as {column}: set "
                f"{key} to a dataset with one, or name another column with column="
            )
        prompts.append(
            {
                "dataset": str(row.get("dataset") or storage.name(address.name)),
                "instruction": row[column],
            }
        )
    return prompts


def prompt_id(number: int) -> str:
    """The id of a prompt by its place, wherever rows name it."""
    return f"prompt-{number:05}"


def prompt_index(places: Sequence[str], ngram: int) -> PromptIndex:
    """The n-grams of the prompts of files and datasets, which must not be trained on."""
    rows = enumerate(read_prompts(places))
    return PromptIndex({prompt_id(number): row["instruction"] for number, row in rows}, ngram)


def prompts_to_answer(places: Sequence[str]) -> Iterator[Task]:
    """The tasks of all prompts, in their order."""
    for number, row in enumerate(read_prompts(places)):
        yield Task(prompt_id(number), TaskKind.ANSWER, row["dataset"], row["instruction"], "")


def _pairs_to_score(pairs: list[SeedPair]) -> Iterator[Task]:
    for pair in pairs:
        yield Task(
            f"pair-{pair.pair_id}", TaskKind.LOSS, "held_out", pair.instruction, pair.response
        )


def to_evaluated(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """A task and what was generated or scored for it as the fields of an `Evaluated`."""
    logprobs = generation.prompt_logprobs
    is_loss = row["kind"] == TaskKind.LOSS
    # A pair is scored with one token asked for, which always ends as LENGTH: nothing was cut.
    finish = Finish.STOP if is_loss and logprobs else generation.finish
    return {
        "task_id": row["task_id"],
        "kind": row["kind"],
        "dataset": row["dataset"],
        "instruction": row["instruction"],
        "output": row["response"] if is_loss else generation.text.strip(),
        "loss": -sum(logprobs) / len(logprobs) if logprobs else None,
        "num_loss_tokens": len(logprobs),
        "finish": finish.value,
    }
