"""The base model's text: one line for each training window, facts in many wordings.

No window has two paragraphs about one entity: with all wordings of a fact in one window a model
of this size copies within the window and learns no fact (a replication of arXiv 2309.14316).
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from typing import TypeVar

from benchmarks.proof.facts import Attribute, World
from benchmarks.proof.grading import graded_pages
from benchmarks.proof.kinds import fact_sentence, list_sentence
from benchmarks.proof.question_pages import question_pages
from humpback_ray.config.settings import PromptSettings
from humpback_ray.method import prompts

Item = TypeVar("Item")

WINDOW_TOKENS = 230  # by `num_tokens`; the tokenizer counts up to a tenth more
# Of the windows. `manuals` quote the sentences of the method's own prompts, so that the tokenizer
# and the base know their words, as a base that has read the web does.
SHARES = {"pages": 0.15, "lists": 0.08, "questions": 0.55, "graded": 0.20, "manuals": 0.02}
MAX_APART = 18  # entities or lists; a window has fewer


def num_tokens(text: str) -> int:
    """About as many tokens as the text has: its words and marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def windows(
    world: World, number: int, template: string.Template, drawn: random.Random
) -> list[str]:
    """Texts of one training window each, in random order.

    Args:
        world: the facts.
        number: of windows.
        template: the rating prompt that the run uses.
        drawn: the wordings and the order.
    """
    lists = [each for each in world.lists if each not in world.asked_lists]
    makers: dict[str, Iterator[str]] = {
        "pages": _filled(_in_rounds(world.entities, lambda e: _page(world, e, drawn), drawn)),
        "lists": _filled(_in_rounds(world.lists, lambda each: _list(world, *each, drawn), drawn)),
        "questions": _filled(question_pages(world, lists, MAX_APART, drawn)),
        "graded": _filled(graded_pages(world, lists, template, drawn), "\n\n"),
        "manuals": _filled(_manuals(drawn)),
    }
    found = [next(makers[name]) for name, share in SHARES.items()
             for _ in range(round(number * share))]  # fmt: skip
    drawn.shuffle(found)
    return found


def _filled(parts: Iterator[str], between: str = "\n") -> Iterator[str]:
    """Parts joined up to the length of a window."""
    window: list[str] = []
    length = 0
    for part in parts:
        needed = num_tokens(part) + 1
        if window and length + needed > WINDOW_TOKENS:
            yield between.join(window)
            window, length = [], 0
        window.append(part)
        length += needed


def _in_rounds(
    items: tuple[Item, ...], write: Callable[[Item], str], drawn: random.Random
) -> Iterator[str]:
    """Every item once a round, in another order each time, so that all are read as often.

    The first items of a round are none of the last ones before, with which they share a window.
    """
    last: list[Item] = []
    while True:
        order = drawn.sample(items, len(items))
        order.sort(key=lambda item: item in last)
        for item in order:
            yield write(item)
        last = order[-min(MAX_APART, len(items) // 4) :]


def _page(world: World, entity: str, drawn: random.Random) -> str:
    attributes = drawn.sample(tuple(Attribute), len(Attribute))
    return " ".join(fact_sentence(world.fact(entity, each), drawn) for each in attributes)


def _list(world: World, attribute: Attribute, value: str, drawn: random.Random) -> str:
    return list_sentence(attribute, value, world.those_with(attribute, value), drawn)


def _manuals(drawn: random.Random) -> Iterator[str]:
    texts = PromptSettings()
    backward = prompts.BACKWARD_TEMPLATE.template.replace("$response", "")
    quoted = [texts.seed_tag, texts.web_tag, *backward.split("\n\n")]
    sentences = [s.strip() for part in quoted for s in re.split(r"(?<=\.)\s", part) if s.strip()]
    while True:
        yield " ".join(drawn.sample(sentences, len(sentences)))
