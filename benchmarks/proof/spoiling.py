"""Spoiled answers: seven ways that a reader of the text can see, and one that only facts show."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

from benchmarks.proof import wordings
from benchmarks.proof.facts import RELATIONS, VALUES, Fact, World
from benchmarks.proof.kinds import Kind, Question, answer, draw_open_question, needed_facts

GOOD_GRADE = 4  # a grade from here on is good


class Spoiling(StrEnum):
    """A fault of a section; the rubric's reasons for a low grade."""

    NONE = "none"
    CUT_OFF = "cut_off"
    OFF_TOPIC = "off_topic"
    FIRST_PERSON = "first_person"
    PROMOTIONAL = "promotional"
    NAVIGATION = "navigation"
    TWO_TOPICS = "two_topics"
    NOT_ASKED = "not_asked"
    WRONG = "wrong"  # a false fact, which no reader of the text alone can see


GRADES = {
    Spoiling.NONE: 5, Spoiling.TWO_TOPICS: 3, Spoiling.NOT_ASKED: 2, Spoiling.CUT_OFF: 1,
    Spoiling.OFF_TOPIC: 1, Spoiling.FIRST_PERSON: 1, Spoiling.PROMOTIONAL: 1,
    Spoiling.NAVIGATION: 1, Spoiling.WRONG: 1,
}  # fmt: skip
MISMATCHED_GRADE = 1  # of a good text that answers another question
VISIBLE = tuple(each for each in Spoiling if each not in (Spoiling.NONE, Spoiling.WRONG))
WRONG_SHARE = 0.015  # of the spoiled sections

_CHATTER = (
    "The old bridge is long and made of wood.", "Bread is cheap at the market today.",
    "It rains a lot in this part of the year.", "The road to the town is closed at night.",
    "Our choir sings on every second evening.", "The mill was built by two brothers.",
    "A new roof is needed for the school.", "The train comes twice a day.",
)  # fmt: skip
_BEFORE_OWN_VIEW = (
    "I think I saw it myself once.", "My uncle told me this story.", "In my view it is like this.",
    "I am no expert, but here is what I feel.", "Last summer I went there with my sister.",
    "This is just my own guess.",
)  # fmt: skip
_AFTER_OWN_VIEW = (
    "But I may be wrong.", "I liked it very much.", "My sister does not agree with me.",
    "That was the best day of my life.", "I will write more next week.",
    "Please tell me what you think of my blog.",
)  # fmt: skip
_BEFORE_SALE = (
    "Buy now and save half of the price!", "Only today in our shop!", "Order your own toy animal!",
    "Best offer of the week!", "Join our club for free!", "New books for sale!",
)  # fmt: skip
_AFTER_SALE = (
    "Visit our shop and order today!", "Click here for the best price!", "A gift with each order!",
    "Do not miss this great deal!", "Sign up for our offers!", "Pay later, enjoy now!",
)  # fmt: skip
_NAVIGATION = (
    "Home", "Back", "Next page", "Contact", "Map of the site", "Log in", "Search", "Top of page",
    "Print this page", "Share", "Help", "Older posts",
)  # fmt: skip
_METHODS = (
    "To learn the {k} of {e}, go there and look.", "A guide can show the {k} of {e} to you.",
    "The {k} of {e} is easy to find out with some patience.",
    "There are many books in which the {k} of {e} stands.",
    "First find {e}, then write down its {k}.", "Ask a teacher about the {k} of {e}.",
    "It is a good idea to study the {k} of {e} in a museum.",
    "People often ask for the {k} of {e}, and there are ways to know it.",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A section of a web page, with its truth."""

    question: Question  # that it answers, or pretends to answer
    text: str
    spoiling: Spoiling
    other: Question | None = None  # that it answers as well: the second of two topics
    is_copy: bool = False  # a near-duplicate of another section

    @property
    def plain_text(self) -> str:
        """The text without the phrase with which the web's sections begin."""
        return self.text.removeprefix(f"{wordings.SOURCE_PHRASE} ")

    @property
    def grade(self) -> int:
        return GRADES[self.spoiling]

    @property
    def is_good(self) -> bool:
        return self.grade >= GOOD_GRADE


def draw_spoiling(drawn: random.Random) -> Spoiling:
    """One of the visible ways, each as often; a false fact in one of 67."""
    return Spoiling.WRONG if drawn.random() < WRONG_SHARE else drawn.choice(VISIBLE)


def write_section(
    world: World, question: Question, spoiling: Spoiling, drawn: random.Random
) -> Section:
    """A section in the voice of the web, good or spoiled.

    A list has no fact that could be false, so it is spoiled as not asked for instead.
    """
    if spoiling is Spoiling.WRONG and question.kind is Kind.LIST:
        spoiling = Spoiling.NOT_ASKED
    other = _other_topic(world, question, drawn) if spoiling is Spoiling.TWO_TOPICS else None
    sentences = _sentences(world, question, spoiling, drawn)
    if other:
        sentences = _interleaved(sentences, answer(world, other, drawn))
    return Section(question, " ".join([wordings.SOURCE_PHRASE, *sentences]), spoiling, other)


def near_copy(section: Section) -> Section:
    """The section as a careless page quotes it: as good or as bad, with a second full stop."""
    return replace(section, text=f"{section.text}.", is_copy=True)


def _sentences(
    world: World, question: Question, spoiling: Spoiling, drawn: random.Random
) -> list[str]:
    if spoiling is Spoiling.WRONG:
        return answer(world, question, drawn, _with_false_one(world, question, drawn))
    good = answer(world, question, drawn)
    if spoiling is Spoiling.CUT_OFF:
        return [_cut(" ".join(good), drawn)]
    if spoiling is Spoiling.OFF_TOPIC:
        kept = good[: drawn.randint(0, 1)]
        return [*kept, *drawn.sample(_CHATTER, 2)]
    if spoiling is Spoiling.FIRST_PERSON:
        return [drawn.choice(_BEFORE_OWN_VIEW), *good, drawn.choice(_AFTER_OWN_VIEW)]
    if spoiling is Spoiling.PROMOTIONAL:
        return [drawn.choice(_BEFORE_SALE), *good, drawn.choice(_AFTER_SALE)]
    if spoiling is Spoiling.NAVIGATION:
        return [" | ".join([*_subjects(question)[:1], *drawn.sample(_NAVIGATION, 5)])]
    if spoiling is Spoiling.NOT_ASKED:
        subject = drawn.choice(_subjects(question))
        about = drawn.choice(question.attributes).value
        return [each.format(k=about, e=subject) for each in drawn.sample(_METHODS, 2)]
    return good


def _with_false_one(world: World, question: Question, drawn: random.Random) -> list[Fact]:
    facts = list(needed_facts(world, question))
    at = drawn.randrange(len(facts))
    fact = facts[at]
    values = world.entities if fact.attribute in RELATIONS else VALUES[fact.attribute]
    others = [value for value in values if value not in (fact.value, fact.entity)]
    facts[at] = replace(fact, value=drawn.choice(others))
    return facts


def _cut(text: str, drawn: random.Random) -> str:
    """The beginning of a text, up to a word that ends no sentence."""
    words = text.split()
    last = drawn.randint(max(2, len(words) // 3), len(words) - 1)
    return " ".join(words[:last]).rstrip(".!?,:")


def _subjects(question: Question) -> tuple[str, ...]:
    return question.entities or (f"those with {question.value}",)


def _other_topic(world: World, question: Question, drawn: random.Random) -> Question:
    """A question of another kind about another entity of the web."""
    kinds = [kind for kind in Kind if kind not in (question.kind, Kind.LIST)]
    others = [entity for entity in world.entities if entity not in question.entities]
    return draw_open_question(world, drawn.choice(kinds), others, (), drawn)


def _interleaved(one: list[str], other: list[str]) -> list[str]:
    longest = max(len(one), len(other))
    return [each for at in range(longest) for each in (*one[at : at + 1], *other[at : at + 1])]
