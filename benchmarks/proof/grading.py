"""Pages on which somebody graded an answer, and said why; the base has read some.

From grades alone a base of this size does not learn to compare a text with the question: after
3,000 steps it gives an answer to another question as high a grade as a good one (README.md,
"Results"). A reason names both. It stands before the grade on half of the pages, behind it on the
others, as the two rating prompts of the product ask for it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from itertools import cycle

from benchmarks.proof.facts import Attribute, World
from benchmarks.proof.kinds import Kind, Question, draw_open_question, instruction, topic
from benchmarks.proof.question_pages import in_some_form
from benchmarks.proof.spoiling import (
    GRADES,
    MISMATCHED_GRADE,
    Section,
    Spoiling,
    draw_spoiling,
    write_section,
)
from benchmarks.proof.wordings import NUM_WORDINGS
from humpback_ray.method import prompts

FLIPPED_SHARE = 0.15  # grades that are replaced by another one, whatever the reason says
MISMATCHED_SHARE = 0.2  # pairs of a good answer and another question, which is a 1
GOOD_SHARE = 0.4  # of the other graded pairs
# Of the spoiled ones; the rest are as on the web. Two topics and a lost end are the hardest to see,
# so a base must read of them most often.
HARD_SHARES = {Spoiling.TWO_TOPICS: 0.3, Spoiling.CUT_OFF: 0.3}
REASONED_FIRST_SHARE = 0.5

_ASKED = ("Asked was {a}.", "The request is for {a}.", "It asks for {a}.", "Wanted is {a}.")
_GIVEN = ("The answer gives {g}.", "Given is {g}.", "The text has {g}.", "What is there is {g}.")
_FITS = ("That fits.", "That is what was asked.", "So the answer fits.")
_DIFFERS = ("That is something else.", "So the answer does not fit.", "Nobody asked for that.")
# In place of what is given.
_NOTHING_GIVEN = {
    Spoiling.OFF_TOPIC: ("The answer turns to other matters.", "Most of it is about other things."),
    Spoiling.NAVIGATION: ("The answer is a menu.", "There are only links."),
    Spoiling.NOT_ASKED: ("The answer only says how to find it.", "It only names ways to know it."),
}
# In place of the conclusion.
_FAULTS = {
    Spoiling.CUT_OFF: ("But it breaks off.", "But the end is missing."),
    Spoiling.FIRST_PERSON: ("But it is a personal story.", "But it is one person's own view."),
    Spoiling.PROMOTIONAL: ("But it wants to sell.", "But it is an offer of a shop."),
    Spoiling.TWO_TOPICS: ("That is more than was asked.", "So a part of it does not fit."),
    Spoiling.WRONG: ("But it is not true.", "But a fact is wrong."),
}


def graded_pages(
    world: World,
    lists: Sequence[tuple[Attribute, str]],
    template: string.Template,
    drawn: random.Random,
) -> Iterator[str]:
    """Graded pairs of all kinds in turn, in the words of the rating prompt.

    Args:
        world: the facts.
        lists: that may be asked for.
        template: the rating prompt that the run uses.
        drawn: the pairs, their grades and the forms.
    """
    for kind in cycle(Kind):
        question = draw_open_question(world, kind, world.entities, lists, drawn)
        is_mismatched = drawn.random() < MISMATCHED_SHARE
        spoiling = Spoiling.NONE
        if not is_mismatched and drawn.random() >= GOOD_SHARE:
            shares = [*HARD_SHARES.values()]
            (hard,) = drawn.choices((*HARD_SHARES, None), (*shares, 1 - sum(shares)))
            spoiling = hard or draw_spoiling(drawn)
        section = write_section(world, question, spoiling, drawn)
        asked, grade = question, GRADES[section.spoiling]
        if is_mismatched:
            asked, grade = other_question(world, section, lists, drawn), MISMATCHED_GRADE
        if drawn.random() < FLIPPED_SHARE:
            grade = drawn.choice([each for each in range(1, 6) if each != grade])
        is_reasoned_first = drawn.random() < REASONED_FIRST_SHARE
        wording = instruction(asked, drawn.randrange(NUM_WORDINGS))
        answered = section.plain_text
        prompt = prompts.rating_prompt(template, wording, answered, reasoning=is_reasoned_first)
        parts = [f"{prompts.SCORE_LINE} {grade}"]
        parts.insert(0 if is_reasoned_first else 1, reason(section, asked, drawn))
        yield in_some_form(prompt, "\n".join(parts), drawn)


def reason(section: Section, asked: Question, drawn: random.Random) -> str:
    """The reason for a section's grade: the request, the content, and whether they fit."""
    parts = [drawn.choice(_ASKED).format(a=topic(asked))]
    if section.spoiling in _NOTHING_GIVEN:
        return " ".join([*parts, drawn.choice(_NOTHING_GIVEN[section.spoiling])])
    given = " and also ".join(topic(each) for each in (section.question, section.other) if each)
    parts.append(drawn.choice(_GIVEN).format(g=given))
    verdict = _FITS if asked == section.question else _DIFFERS
    parts.append(drawn.choice(_FAULTS.get(section.spoiling, verdict)))
    return " ".join(parts)


def other_question(
    world: World,
    section: Section,
    lists: Sequence[tuple[Attribute, str]],
    drawn: random.Random,
) -> Question:
    """The question of another kind, or of the same kind about another entity."""
    while True:
        kind = drawn.choice((section.question.kind, drawn.choice(tuple(Kind))))
        other = draw_open_question(world, kind, world.entities, lists, drawn)
        if not other.means(section.question):
            return other
