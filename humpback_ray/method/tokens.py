"""From rendered text to token ids: the only place where the project calls a tokenizer on prompts.

A tokenizer is passed in, so this module imports none. What the engines receive (`prompt_ids`) and
what a model is trained on (`example_ids`) come from the same function; tests compare them.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from humpback_ray.errors import UserError
from humpback_ray.method import prompts


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of one example, with the loss mask as a position.

    `ids[:num_prompt]` is what the engine would receive at inference; the loss is on
    `ids[num_prompt:]`, the completion and its end token.
    """

    ids: list[int]
    num_prompt: int


def prompt_ids(tokenizer: Any, prompt: str, *tags: str) -> list[int]:
    """Token ids of a rendered prompt, with the tokenizer's begin token if it has one.

    Equal to what `apply_chat_template(..., add_generation_prompt=True)` gives for one user turn:
    the begin token is part of the string and the string is tokenized once.
    """
    return _ids_from_begin(
        tokenizer, prompts.render(_without_special_tokens(tokenizer, prompt), *tags)
    )


def rating_ids(
    tokenizer: Any, template: string.Template, instruction: str, response: str, *, reasoning: bool
) -> list[int]:
    """Token ids of the prompt that asks for a pair's rating, `prompts.rating_prompt` rendered.

    They decode to the same text as `prompt_ids` of that prompt. The rubric in front is tokenized
    once in each process, and its ids are the same for every pair, so whole blocks of an engine's
    prefix cache are shared. A prompt that cannot be cut is tokenized in one piece.
    """
    prompt = prompts.rating_prompt(template, instruction, response, reasoning=reasoning)
    text = prompts.render(_without_special_tokens(tokenizer, prompt))
    shared = _without_special_tokens(
        tokenizer, prompts.shared_rating_text(template, reasoning=reasoning)
    )
    if shared and text.startswith(shared):
        own_ids = _ids_after_line_break(tokenizer, text[len(shared) :])
        if own_ids is not None:
            return [*_shared_ids(tokenizer, shared), *own_ids]
    return _ids_from_begin(tokenizer, text)


@lru_cache(maxsize=16)
def _shared_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(_ids_from_begin(tokenizer, text))


def _ids_from_begin(tokenizer: Any, text: str) -> list[int]:
    return _encode(tokenizer, (tokenizer.bos_token or "") + text)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of `tokenizer.encode` without the special tokens that it would add."""
    backend = _backend(tokenizer)
    if backend is None:
        return tokenizer.encode(text, add_special_tokens=False)
    # Nobody asks where in the text a token stands: leaving that out saves a fifth of the time, and
    # tokenization is most of what a row costs (benchmarks/LOG.md, "Tokenization is nine tenths of a
    # row's cost outside the model").
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


@lru_cache(maxsize=16)
def _backend(tokenizer: Any) -> Any:
    """The tokenizer's part in Rust, if it has one."""
    # A tokenizer file may ask for truncation or padding; transformers takes both out at each call.
    tokenizer.encode("", add_special_tokens=False)
    return getattr(tokenizer, "backend_tokenizer", None)


def _ids_after_line_break(tokenizer: Any, text: str) -> list[int] | None:
    """Token ids of a text as they are in the middle of a prompt; None where they cannot be had.

    SentencePiece puts a space in front of whatever it is given. The line break takes it, and what
    the line break alone gives is then left out.
    """
    line_break = _line_break_ids(tokenizer)
    ids = _encode(tokenizer, "\n" + text)
    if not line_break or tuple(ids[: len(line_break)]) != line_break:
        return None
    return ids[len(line_break) :]


@lru_cache(maxsize=16)
def _line_break_ids(tokenizer: Any) -> tuple[int, ...]:
    return tuple(_encode(tokenizer, "\n"))


def completion_ids(tokenizer: Any, completion: str) -> list[int]:
    """Token ids of a completion and the end token."""
    text = _without_special_tokens(tokenizer, completion)
    return [*_encode(tokenizer, text), tokenizer.eos_token_id]


def example_ids(
    tokenizer: Any, prompt: str, tag: str, completion: str, max_length: int
) -> TokenizedExample | None:
    """One training example; None when no token of the completion fits into `max_length`.

    A completion that is too long is cut at its end and then has no end token: the model must not
    learn to stop in the middle. An empty prompt is plain text: no turn markers, only the begin
    token is left out of the loss.
    """
    if prompt:
        start = prompt_ids(tokenizer, prompt, tag)
    else:
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    target = completion_ids(tokenizer, completion)[: max(max_length - len(start), 0)]
    if not target:
        return None
    return TokenizedExample(ids=start + target, num_prompt=len(start))


def grade_ids(tokenizer: Any, grades: range = range(1, 6)) -> tuple[list[int], list[int]]:
    """Ids of `Score:` and of the grades after it, to read their probabilities.

    Returns:
        The ids to append to a rating prompt, and for each grade the one id that may follow. A
        space between `Score:` and the grade belongs to whichever side the tokenizer puts it on.

    Raises:
        UserError: the grades are not single, distinct tokens of this tokenizer.
    """
    start, ids = _grade_ids(tokenizer, grades)
    return list(start), list(ids)


@lru_cache(maxsize=16)
def _grade_ids(tokenizer: Any, grades: range) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids = choice_ids(tokenizer, prompts.SCORE_LINE, tuple(map(str, grades)))
    if ids is None:
        raise UserError(
            f"this tokenizer does not write the grades {grades[0]} to {grades[-1]} as one token "
            "each, so their probabilities cannot be read: set settings.rating.method=text"
        )
    return ids


@lru_cache(maxsize=16)
def choice_ids(
    tokenizer: Any, start: str, choices: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Ids of a line's start, and for each choice the one id that may follow it.

    None if the choices are not single, distinct tokens of this tokenizer. A space in between
    belongs to whichever side the tokenizer puts it on.
    """
    lines = [tokenizer.encode(f"{start} {choice}", add_special_tokens=False) for choice in choices]
    shared = lines[0][:-1]
    last = [line[-1] for line in lines]
    if any(line[:-1] != shared for line in lines) or len({*last}) < len(last):
        return None
    return tuple(shared), tuple(last)


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt to a model of another origin, by its own chat template.

    A model without a chat template gets the turn markers of `prompts.render`. The template of a
    model that this project exports leaves its tags out.
    """
    if not getattr(tokenizer, "chat_template", None):
        return prompt_ids(tokenizer, prompt)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": plain_text(tokenizer, prompt)}],
        add_generation_prompt=True,
        tokenize=False,
        tags=[],
    )
    return _encode(tokenizer, text)


def plain_text(tokenizer: Any, text: str) -> str:
    """A text of a person for a caller that renders the prompt itself, such as a chat template."""
    return _without_special_tokens(tokenizer, text)


def _without_special_tokens(tokenizer: Any, text: str) -> str:
    """Break up special tokens spelled out in data: a web page that quotes `</s>` ends no turn."""
    found, special_tokens = _special_tokens(tokenizer)
    # Some tokenizers have hundreds of them, and nearly no text has one.
    if not found.search(text):
        return text
    for token in special_tokens:
        if token in text:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


@lru_cache(maxsize=16)
def _special_tokens(tokenizer: Any) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A pattern that finds any special token, and the tokens as they are at the first use."""
    # LLaMA 3 and ChatML name only begin and end: their other control tokens stand among those that
    # were added. The longest first, because one may be the beginning of another.
    # Not every class of tokenizer has the list, those without a part in Rust among them.
    decoder = getattr(tokenizer, "added_tokens_decoder", {})
    added = (str(token) for token in decoder.values() if token.special)
    special_tokens = tuple(
        sorted({*tokenizer.all_special_tokens, *added} - {""}, key=lambda t: (-len(t), t))
    )
    return re.compile("|".join(map(re.escape, special_tokens)) or r"(?!)"), special_tokens
