"""From rendered text to token ids: the only place where the project calls a tokenizer on prompts.

A tokenizer is passed in, so this module imports none. What the engines receive (`prompt_ids`) and
what a model is trained on (`example_ids`) come from the same function; tests compare them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from humpback_ray.text import prompts


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of one example, with the loss mask as a position.

    `ids[:num_prompt]` is what the engine would receive at inference; the loss is on
    `ids[num_prompt:]`, the completion and its end token.
    """

    ids: list[int]
    num_prompt: int

    @property
    def num_target(self) -> int:
        return len(self.ids) - self.num_prompt


def prompt_ids(tokenizer: Any, prompt: str, *tags: str) -> list[int]:
    """Token ids of a rendered prompt, with the tokenizer's begin token if it has one.

    Equal to what `apply_chat_template(..., add_generation_prompt=True)` gives for one user turn:
    the begin token is part of the string and the string is tokenized once.
    """
    text = prompts.render(_without_special_tokens(tokenizer, prompt), *tags)
    return tokenizer.encode((tokenizer.bos_token or "") + text, add_special_tokens=False)


def completion_ids(tokenizer: Any, completion: str) -> list[int]:
    """Token ids of a completion and the end token."""
    text = _without_special_tokens(tokenizer, completion)
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


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
    """How to read a grade's probability right after `Score:`.

    Returns:
        The ids to append to a rating prompt, and for each grade the one id that may follow. A
        space between `Score:` and the grade belongs to whichever side the tokenizer puts it on.

    Raises:
        ValueError: the grades are not single, distinct tokens of this tokenizer.
    """
    lines = [
        tokenizer.encode(f"{prompts.SCORE_LINE} {grade}", add_special_tokens=False)
        for grade in grades
    ]
    start = lines[0][:-1]
    if any(line[:-1] != start for line in lines) or len({line[-1] for line in lines}) < len(lines):
        raise ValueError(
            "this tokenizer does not write the grades 1 to 5 as one token each, so their "
            "probabilities cannot be read: set settings.rating.method=text"
        )
    return start, [line[-1] for line in lines]


def _without_special_tokens(tokenizer: Any, text: str) -> str:
    """Break up special tokens spelled out in data: a web page that quotes `</s>` ends no turn."""
    for token in tokenizer.all_special_tokens:
        if token in text:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text
