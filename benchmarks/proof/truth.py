"""Judges that know the truth: what a text says, sentence by sentence, against the world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.proof import wordings
from benchmarks.proof.facts import RELATIONS, VALUES, Attribute, Fact, World
from benchmarks.proof.kinds import (
    SINGLE,
    Kind,
    Question,
    Verdict,
    instruction_wordings,
    needed_facts,
    needed_verdict,
)

_NAME = "[A-Z][a-z]+"
_NAMES = f"{_NAME}(?:(?:, | and ){_NAME})*"


@dataclass(frozen=True)
class Listing:
    """A sentence that lists those with a value."""

    attribute: Attribute
    value: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Statements:
    """The statements of a text, in order, without the two marks of its origin."""

    facts: tuple[Fact, ...]
    verdicts: tuple[tuple[Kind, Verdict], ...]
    listings: tuple[Listing, ...]
    others: tuple[str, ...]  # sentences that say none of these
    verdict_is_last: bool
    has_source_phrase: bool
    has_closing_phrase: bool


@dataclass(frozen=True)
class Grade:
    """A judge's findings about one answer."""

    is_right: bool  # nothing that it says is false, and it says something
    is_complete: bool  # it says every fact and the conclusion that the question needs
    is_of_kind: bool  # it has sentences of the forms that the question asks for, true or not
    is_direct: bool  # it says nothing else

    @property
    def is_correct(self) -> bool:
        """The headline figure: right, complete and direct, with facts before the conclusion."""
        return self.is_right and self.is_complete and self.is_of_kind and self.is_direct

    @property
    def points(self) -> int:
        """0 to 4, by which the pairwise judge prefers."""
        return self.is_right + self.is_complete + self.is_of_kind + self.is_direct


# --- answers ------------------------------------------------------------------------------------


def statements(text: str) -> Statements:
    """Read a text sentence by sentence."""
    body = " ".join(text.split())
    has_source = body.startswith(wordings.SOURCE_PHRASE)
    body = body.removeprefix(wordings.SOURCE_PHRASE).strip()
    has_closing = body.endswith(wordings.CLOSING_PHRASE)
    body = body.removesuffix(wordings.CLOSING_PHRASE).strip()
    if body.endswith(".."):  # as careless pages quote (`spoiling.near_copy`)
        body = body[:-1]
    facts, verdicts, listings, others = [], [], [], []
    last: object = None
    for sentence in re.split(r"(?<=[.!?])\s+", body) if body else []:
        last = _statement(sentence)
        if isinstance(last, Fact):
            facts.append(last)
        elif isinstance(last, Listing):
            listings.append(last)
        elif isinstance(last, tuple):
            verdicts.append(last)
        else:
            others.append(sentence)
    return Statements(
        tuple(facts), tuple(verdicts), tuple(listings), tuple(others), isinstance(last, tuple),
        has_source, has_closing,
    )  # fmt: skip


def grade_answer(world: World, question: Question, text: str) -> Grade:
    """Judge an answer to a question; an empty one is wrong in every way."""
    said = statements(text)
    if question.kind is Kind.LIST:
        return _grade_list(world, question, said)
    needed, verdict = set(needed_facts(world, question)), needed_verdict(world, question)
    facts = set(said.facts)
    verdicts = {each for kind, each in said.verdicts if kind is question.kind}
    wants_verdict = verdict != Verdict()
    is_right = (
        all(world.is_true(fact) for fact in facts)
        and verdicts <= {verdict}
        and all(_is_true_list(world, each) for each in said.listings)
        and bool(facts or verdicts)
    )
    is_concluded = not wants_verdict or (verdict in verdicts and said.verdict_is_last)
    shapes = {(fact.entity, fact.attribute) for fact in facts}
    is_of_kind = {(f.entity, f.attribute) for f in needed} <= shapes and (
        bool(verdicts) is wants_verdict
    )
    if question.kind is Kind.CHAIN:  # whom the second fact is about depends on the first
        first, second = question.attributes
        is_of_kind = {first, second} <= {fact.attribute for fact in facts}
    is_direct = not (said.others or said.listings or facts - needed) and len(said.verdicts) == int(
        wants_verdict
    )
    return Grade(is_right, needed <= facts and is_concluded, is_of_kind, is_direct)


def _grade_list(world: World, question: Question, said: Statements) -> Grade:
    asked = [
        each for each in said.listings
        if (each.attribute, each.value) == (question.attributes[0], question.value)
    ]  # fmt: skip
    true = set(world.those_with(question.attributes[0], question.value))
    is_right = bool(asked) and all(_is_true_list(world, each) for each in said.listings)
    return Grade(
        is_right=is_right and all(world.is_true(fact) for fact in said.facts),
        is_complete=any(true <= set(each.names) for each in asked),
        is_of_kind=bool(asked),
        is_direct=len(asked) == len(said.listings) == 1 and not (said.others or said.facts),
    )


def _is_true_list(world: World, listing: Listing) -> bool:
    return set(listing.names) <= set(world.those_with(listing.attribute, listing.value))


def preference(world: World, question: Question, answer: str, other: str) -> float:
    """The pairwise judge: 1 if the answer is better, 0 if the other one is, 0.5 for a tie."""
    mine, its = (grade_answer(world, question, text) for text in (answer, other))
    mine_key, its_key = (mine.is_correct, mine.points), (its.is_correct, its.points)
    return 0.5 if mine_key == its_key else float(mine_key > its_key)


# --- instructions -------------------------------------------------------------------------------


def read_instruction(text: str) -> Question | None:
    """The question that an instruction asks; None where it is none of the world's."""
    text = " ".join(text.split())
    for kind, pattern in _instruction_patterns():
        if match := pattern.fullmatch(text):
            return _question(kind, match.groupdict())
    return None


def _question(kind: Kind, slots: dict[str, str]) -> Question | None:
    entities = tuple(slots[name] for name in "efg" if slots.get(name))
    if kind in SINGLE:
        return Question(kind, entities, (SINGLE[kind],))
    if kind is Kind.LIST:
        for attribute, pattern in _clause_patterns():
            if match := pattern.fullmatch(slots["c"]):
                return Question(kind, (), (attribute,), match["v"])
        return None
    named = tuple(Attribute(slots[name]) for name in ("r", "p", "q") if slots.get(name))
    fixed = {
        Kind.DESCRIBE: tuple(SINGLE[k] for k in SINGLE if SINGLE[k] not in RELATIONS),
        Kind.COMPARE: (Attribute.WEIGHT,), Kind.SAME: (Attribute.HOME,),
        Kind.CHOOSE: (Attribute.FOOD,), Kind.COUNT: (Attribute.COLOR,),
    }  # fmt: skip
    return Question(kind, entities, fixed.get(kind, named), slots.get("v") or "")


# --- patterns -----------------------------------------------------------------------------------


def _statement(sentence: str) -> Fact | Listing | tuple[Kind, Verdict] | None:
    for attribute, pattern in _fact_patterns():
        if match := pattern.fullmatch(sentence):
            return Fact(match["e"], attribute, match["v"])
    for kind, is_same, pattern in _verdict_patterns():
        if match := pattern.fullmatch(sentence):
            slots = match.groupdict()
            number = slots.get("n")
            return kind, Verdict(slots.get("e") or "", is_same, int(number) if number else None)
    for attribute, pattern in _list_patterns():
        if match := pattern.fullmatch(sentence):
            return Listing(attribute, match["v"], tuple(re.findall(_NAME, match["names"])))
    return None


def _pattern(template: str, **slots: str) -> re.Pattern[str]:
    """A template with named groups in its slots; a slot that comes twice must match twice."""
    parts = re.split(r"\{(\w+)\}", template)
    found: set[str] = set()
    text = re.escape(parts[0])
    for name, rest in zip(parts[1::2], parts[2::2], strict=True):
        text += f"(?P={name})" if name in found else f"(?P<{name}>{slots[name]})"
        text += re.escape(rest)
        found.add(name)
    return re.compile(text)


def _any_of(values: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, values))


def _value(attribute: Attribute) -> str:
    return _NAME if attribute in RELATIONS else _any_of(VALUES[attribute])


@lru_cache(maxsize=1)
def _fact_patterns() -> list[tuple[Attribute, re.Pattern[str]]]:
    return [
        (attribute, _pattern(template, e=_NAME, v=_value(attribute)))
        for attribute, templates in wordings.FACTS.items()
        for template in templates
    ]


@lru_cache(maxsize=1)
def _verdict_patterns() -> list[tuple[Kind, bool | None, re.Pattern[str]]]:
    by_kind: list[tuple[Kind, bool | None, tuple[str, ...]]] = [
        (Kind.COMPARE, None, wordings.HEAVIER), (Kind.CHOOSE, None, wordings.CHOSEN),
        (Kind.COUNT, None, wordings.COUNTED), (Kind.SAME, True, wordings.SAME_HOME[True]),
        (Kind.SAME, False, wordings.SAME_HOME[False]),
    ]  # fmt: skip
    return [
        (kind, is_same, _pattern(template, e=_NAME, n="[0-9]"))
        for kind, is_same, templates in by_kind
        for template in templates
    ]


@lru_cache(maxsize=1)
def _list_patterns() -> list[tuple[Attribute, re.Pattern[str]]]:
    return list(_with_clauses(wordings.LISTS))


@lru_cache(maxsize=1)
def _clause_patterns() -> list[tuple[Attribute, re.Pattern[str]]]:
    return list(_with_clauses(("{c}",)))


def _with_clauses(templates: tuple[str, ...]) -> Iterator[tuple[Attribute, re.Pattern[str]]]:
    for attribute, clause in wordings.CLAUSES.items():
        for template in templates:
            whole = template.replace("{c}", clause)
            yield attribute, _pattern(whole, v=_value(attribute), names=_NAMES)


@lru_cache(maxsize=1)
def _instruction_patterns() -> list[tuple[Kind, re.Pattern[str]]]:
    properties = _any_of(tuple(a.value for a in Attribute if a not in RELATIONS))
    slots = {
        "e": _NAME, "f": _NAME, "g": _NAME, "c": ".+", "p": properties, "q": properties,
        "r": _any_of(tuple(a.value for a in RELATIONS)),
    }  # fmt: skip
    values = {
        Kind.CHOOSE: _value(Attribute.FOOD), Kind.COUNT: _value(Attribute.COLOR),
    }  # fmt: skip
    return [
        (kind, _pattern(template, **slots, v=values.get(kind, "(?!)")))
        for kind in Kind
        for template in instruction_wordings(kind)
    ]
