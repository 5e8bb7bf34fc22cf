"""A row's request to an engine, and the answer. Neither Ray nor vLLM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from humpback_ray.rows import Finish


@dataclass(frozen=True)
class ServedModel:
    """A model as the engines serve it. Every field decides what is generated."""

    location: str  # folder, URL or hub id
    context_length: int  # tokens of prompt and answer together
    dtype: str  # of the engine's arithmetic, or `auto`
    trust_remote_code: bool = False
    quantization: str | None = None  # of the weights, as vLLM names it; None: as they are stored
    revision: str | None = None  # of a hub id
    head_dtype: str | None = None  # of the logits; None: the arithmetic's
    load_format: str = "auto"  # of the weights, as vLLM names it; dummy: random ones, no files


@dataclass(frozen=True)
class Request:
    """One row's request to the engine. Ids, not text, so the engine gets what training saw."""

    prompt_ids: list[int]  # empty: there is nothing to ask, the row finishes as EMPTY_PROMPT
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    wanted_ids: list[int] | None = None  # whose log-probability as the next token is wanted
    score_from: int | None = None  # position in the prompt from where log-probabilities are wanted
    needed_tokens: int | None = None  # least room for an answer; None: `max_tokens`


@dataclass(frozen=True)
class Generation:
    """The engine's answer for one row."""

    text: str
    finish: Finish
    num_prompt_tokens: int
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt, found in the engine's prefix cache
    wanted_logprobs: tuple[float, ...] = ()  # nats, in the order of `wanted_ids`
    prompt_logprobs: tuple[float, ...] = ()  # nats, of the prompt's tokens from `score_from` on


@dataclass(frozen=True)
class RowTask:
    """The way from a table's rows to requests, and from the answers to another table's rows.

    One row in, one row out: a row that cannot be asked or answered comes out with its reason.
    """

    model: ServedModel
    id_column: str  # unique, and the same before and after
    row_type: type  # of the rows that come out
    to_request: Callable[[dict[str, Any], Any], Request]  # (row, tokenizer)
    to_row: Callable[[dict[str, Any], Generation], dict[str, Any]]
    long_column: str = ""  # the text of a row that makes its prompt long
    cut_long: bool = False  # cut that text of a prompt that does not fit, instead of refusing it
    leave_long: bool = False  # let such rows out: another pass has an engine for them


def row_seed(random_seed: int, row_id: str, round_: str) -> int:
    """A sampling seed for one row that no batch, engine or resume can change."""
    digest = hashlib.sha256(f"{random_seed}/{row_id}/{round_}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@cache
def load_tokenizer(model: ServedModel) -> Any:
    """The tokenizer of a model, loaded once in each process."""
    from transformers import AutoTokenizer

    from humpback_ray.models.local import local_folder

    return AutoTokenizer.from_pretrained(
        local_folder(model.location, weights=False),
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )


@dataclass(frozen=True)
class PreparedRequest:
    """A row's request as it goes to the engine, or the reason why it must not."""

    request: Request
    refusal: Finish | None = None
    was_cut: bool = False  # the long text was shortened until the prompt fitted


def prepare_request(row: dict[str, Any], task: RowTask, tokenizer: Any) -> PreparedRequest:
    """The request of a row under the task's context length.

    A prompt that leaves the context less room than the answer needs is too long. Where the task
    says so, the long text of such a prompt is cut at its end. The cut depends on the row, the
    tokenizer and the context alone, so it is the same wherever the row is asked.
    """
    limit = task.model.context_length
    request = task.to_request(row, tokenizer)
    if not request.prompt_ids:
        return PreparedRequest(request, Finish.EMPTY_PROMPT)
    was_cut = False
    if task.cut_long and len(request.prompt_ids) > limit - _needed(request, limit):
        request, was_cut = _cut(row, request, task, tokenizer), True
    num_prompt = len(request.prompt_ids)
    if num_prompt > limit - _needed(request, limit):
        return PreparedRequest(request, Finish.PROMPT_TOO_LONG)
    # What is left of the context bounds the answer.
    fitting = replace(request, max_tokens=min(request.max_tokens, limit - num_prompt))
    return PreparedRequest(fitting, was_cut=was_cut)


def _needed(request: Request, limit: int) -> int:
    """Tokens that an answer must find room for: one at least, half of the context at most."""
    # An answer may be allowed the whole context, and a prompt needs room too.
    return max(min(request.needed_tokens or request.max_tokens, limit // 2), 1)


def _cut(row: dict[str, Any], request: Request, task: RowTask, tokenizer: Any) -> Request:
    limit = task.model.context_length
    room = limit - _needed(request, limit)
    text = row[task.long_column]
    while text and len(request.prompt_ids) > room:
        num_prompt = len(request.prompt_ids)
        # By the prompt's mean characters per token, and by at least one character for each token.
        num_kept = min(len(text) * room // num_prompt, len(text) - (num_prompt - room))
        text = text[: max(num_kept, 0)]
        request = task.to_request(row | {task.long_column: text}, tokenizer)
    return request
