"""Pages of questions and answers that the base has read, in as many forms as the web has them.

A model of this size otherwise learns to find the one that is asked about only at the place where it
always stood. The remarks between a question and its answer matter most: the method's prompts have
tags there (README.md, "Results").
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.proof.facts import Attribute, World
from benchmarks.proof.kinds import AGGREGATE, COVERED, Kind, answer, draw_open_question, instruction
from benchmarks.proof.wordings import NUM_WORDINGS
from humpback_ray.config.settings import PromptSettings

# Of a kind that the seed does not cover, against one that it does.
UNCOVERED_WEIGHT = 0.01
# Of a kind with several entities: each of them must be found among the others.
AGGREGATE_WEIGHT = 2.0
QUIZ_SHARE = 0.5  # pages that give the answer and ask for its question
OPENED_SHARE = 0.3  # answers that begin with an opening, which says nothing about what follows

_BEFORE_QUESTION = (
    "Question: ", "Q: ", "", "### ", "Ask: ", "A visitor asks:\n", "Request\n", "### Question\n",
    "### Request\n",
)  # fmt: skip
_REMARKS = (
    "Posted on day {n} by a guest.", "Please be brief.", "Thank you for your help.",
    "Read {n} times.", "I ask for a friend.", "Answer in your own words.",
    "Use what the books say.", "This was asked {n} times.", "Answer with what is known.",
    "Write in the style of a teacher.", "Answer after a search in the web.",
    "Say it as an assistant of the museum would.", "Answer in the style of an old book.",
    "Answer with knowledge from the library.", "Answer in the style of a good friend.",
    "Answer with knowledge from a long search.", "Answer in the style of a guide.",
    "Answer with knowledge from this place.",
    # A model of this size reads past the sentences that it has read there, and not past others.
    PromptSettings().seed_tag, PromptSettings().web_tag,
)  # fmt: skip
_BEFORE_ANSWER = (
    "\nAnswer: ", "\nA: ", "\n", "\n\n", " Reply: ", "\n\nWe say:\n", "\n\nAnswer\n",
    "\n\n### Reply\n", "\n\n### Answer\n",
)  # fmt: skip
OPENINGS = (
    "From the books:", "As far as we know:", "In short:", "By the old lists:", "From a guide:",
    "Here you are:", "From what we have read:", "As the notes say:",
)  # fmt: skip
# What asks for the question of a text; the text stands before or behind it.
_QUIZZES = (
    "What was the question?", "This answers a question. Which one?",
    "Write the question of this text.", "Below is an answer. Write what was asked for it.",
    "Find the request that somebody made to get this text.", "Write nothing but the question.",
)  # fmt: skip


def question_pages(
    world: World, lists: list[tuple[Attribute, str]], num_apart: int, drawn: random.Random
) -> Iterator[str]:
    """Questions with their answers, about entities of the web and some lists only.

    Args:
        world: the facts.
        lists: that may be asked for.
        num_apart: entities that the next question is not about, because they stand in its window.
        drawn: kinds, wordings and forms.
    """
    weights = [
        (1.0 if kind in COVERED else UNCOVERED_WEIGHT)
        * (AGGREGATE_WEIGHT if kind in AGGREGATE else 1.0)
        for kind in Kind
    ]
    recent: list[str] = []
    num_apart = min(num_apart, len(world.entities) // 4)
    while True:
        is_quiz = drawn.random() < QUIZ_SHARE
        kind = drawn.choice(tuple(Kind)) if is_quiz else drawn.choices(tuple(Kind), weights)[0]
        free = [entity for entity in world.entities if entity not in recent]
        question = draw_open_question(world, kind, free, lists, drawn)
        recent = (recent + list(question.entities))[-num_apart:]
        asked = instruction(question, drawn.randrange(NUM_WORDINGS))
        opening = [drawn.choice(OPENINGS)] if drawn.random() < OPENED_SHARE else []
        answered = " ".join([*opening, *answer(world, question, drawn)])
        if is_quiz:
            asked, answered = _quiz(answered, drawn), asked
        yield _page(asked, answered, drawn)


def _quiz(text: str, drawn: random.Random) -> str:
    parts = [drawn.choice(_QUIZZES), drawn.choice(("", "Text: ", "Text:\n")) + text]
    drawn.shuffle(parts)
    return drawn.choice(("\n", "\n\n", " ")).join(parts)


def _page(asked: str, answered: str, drawn: random.Random) -> str:
    remarks = drawn.sample(_REMARKS, drawn.choice((0, 0, 1, 1, 2)))
    remarks = [remark.format(n=drawn.randint(2, 9)) for remark in remarks]
    return in_some_form(drawn.choice(("\n", " ")).join([asked, *remarks]), answered, drawn)


def in_some_form(asked: str, answered: str, drawn: random.Random) -> str:
    """A request and its answer, set apart in one of the ways of question pages."""
    return f"{drawn.choice(_BEFORE_QUESTION)}{asked}{drawn.choice(_BEFORE_ANSWER)}{answered}"
