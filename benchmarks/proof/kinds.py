"""Sixteen kinds of question: what each needs, how it is asked, how a good answer runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.proof import wordings
from benchmarks.proof.facts import PROPERTIES, RELATIONS, VALUES, Attribute, Fact, World


class Kind(StrEnum):
    """Kinds of question; the first eight ask for one attribute and are named like it."""

    COLOR = Attribute.COLOR.value
    HOME = Attribute.HOME.value
    FOOD = Attribute.FOOD.value
    WEIGHT = Attribute.WEIGHT.value
    SOUND = Attribute.SOUND.value
    MONTH = Attribute.MONTH.value
    FRIEND = Attribute.FRIEND.value
    RIVAL = Attribute.RIVAL.value
    PAIR = "pair"  # two properties of one entity
    DESCRIBE = "describe"  # all properties of one entity
    LIST = "list"  # all entities with a value
    CHAIN = "chain"  # a property of an entity's friend or rival
    COMPARE = "compare"  # the heavier one of two
    SAME = "same"  # two entities: one home or two
    CHOOSE = "choose"  # the one of three that eats something
    COUNT = "count"  # those of three that have a color


class Group(StrEnum):
    """Groups of kinds that the tables keep apart."""

    COVERED = "covered"  # in the seed, and recalled as the text says it
    UNCOVERED = "uncovered"  # not in the seed, and recalled as the text says it
    AGGREGATE = "aggregate"  # not in the seed, and in no text: the facts must be put together
    COVERED_AGGREGATE = "covered_aggregate"


SINGLE = {Kind(attribute.value): attribute for attribute in Attribute}
COVERED = (
    Kind.COLOR, Kind.FOOD, Kind.SOUND, Kind.FRIEND, Kind.PAIR, Kind.DESCRIBE, Kind.COMPARE,
    Kind.CHOOSE,
)  # fmt: skip
UNCOVERED = tuple(kind for kind in Kind if kind not in COVERED)
HELD_OUT_SHARE = 0.5  # of the questions about asked entities
AGGREGATE = (Kind.CHAIN, Kind.COMPARE, Kind.SAME, Kind.CHOOSE, Kind.COUNT)


def group_of(kind: Kind) -> Group:
    """The group of a kind."""
    if kind in AGGREGATE:
        return Group.COVERED_AGGREGATE if kind in COVERED else Group.AGGREGATE
    return Group.COVERED if kind in COVERED else Group.UNCOVERED


@dataclass(frozen=True)
class Question:
    """A question in no particular wording."""

    kind: Kind
    entities: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    value: str = ""

    @property
    def about(self) -> str:
        """The entity or value by which questions cluster."""
        return self.entities[0] if self.entities else self.value

    def means(self, other: Question) -> bool:
        """True if both ask for the same, in whatever order they name entities and attributes."""
        if self.kind is Kind.CHAIN:  # the relation stands first
            return self == other
        return (self.kind, self.value, set(self.entities), set(self.attributes)) == (
            other.kind, other.value, set(other.entities), set(other.attributes)
        )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """The conclusion of an answer from its facts; empty for kinds that only recall."""

    entity: str = ""  # the heavier one, the chosen one
    is_same: bool | None = None
    number: int | None = None


_INSTRUCTIONS: Mapping[Kind, Sequence[str]] = {
    **{kind: wordings.SINGLE_INSTRUCTIONS[attribute] for kind, attribute in SINGLE.items()},
    Kind.PAIR: wordings.PAIR_INSTRUCTIONS,
    Kind.DESCRIBE: wordings.DESCRIBE_INSTRUCTIONS,
    Kind.LIST: wordings.LIST_INSTRUCTIONS,
    Kind.CHAIN: wordings.CHAIN_INSTRUCTIONS,
    Kind.COMPARE: wordings.COMPARE_INSTRUCTIONS,
    Kind.SAME: wordings.SAME_INSTRUCTIONS,
    Kind.CHOOSE: wordings.CHOOSE_INSTRUCTIONS,
    Kind.COUNT: wordings.COUNT_INSTRUCTIONS,
}


def instruction_wordings(kind: Kind) -> Sequence[str]:
    """The eight wordings of a kind's instruction, with their slots."""
    return _INSTRUCTIONS[kind]


def instruction(question: Question, wording: int) -> str:
    """The question in one of its wordings."""
    slots = dict(zip("efg", question.entities, strict=False)) | {"v": question.value}
    if question.kind is Kind.PAIR:
        slots |= {"p": question.attributes[0].value, "q": question.attributes[1].value}
    elif question.kind is Kind.CHAIN:
        slots |= {"r": question.attributes[0].value, "p": question.attributes[1].value}
    elif question.kind is Kind.LIST:
        slots["c"] = wordings.CLAUSES[question.attributes[0]].format(v=question.value)
    return instruction_wordings(question.kind)[wording].format(**slots)


def topic(question: Question) -> str:
    """What a question asks for, as a noun that stands in a sentence."""
    names, value = question.entities, question.value
    listed = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    properties = " and the ".join(each.value for each in question.attributes)
    if question.kind is Kind.CHAIN:
        relation, attribute = question.attributes
        return f"the {attribute} of the {relation} of {listed}"
    if question.kind is Kind.LIST:
        clause = wordings.CLAUSES[question.attributes[0]].format(v=value)
        return f"the list of those that {clause}"
    return {
        Kind.DESCRIBE: f"a portrait of {listed}",
        Kind.COMPARE: f"the heavier one of {listed}",
        Kind.SAME: f"one home of {listed}",
        Kind.CHOOSE: f"the one of {listed} that eats {value}",
        Kind.COUNT: f"the number of {value} ones of {listed}",
    }.get(question.kind, f"the {properties} of {listed}")


def is_held_out(world: World, question: Question) -> bool:
    """True for a question that no page, pair or grade asks; the held-out ones are drawn of these.

    Of the questions about asked entities alone it is one half, by kind and entities. The other half
    may be read of, so a model has been asked about everybody, and never the same.
    """
    if question.kind is Kind.LIST:
        return (question.attributes[0], question.value) in world.asked_lists
    if not world.asked.issuperset(question.entities):
        return False
    names = "/".join(sorted(question.entities))
    return random.Random(f"{world.seed}/{question.kind}/{names}").random() < HELD_OUT_SHARE


# --- what a question needs ----------------------------------------------------------------------


def needed_facts(world: World, question: Question) -> tuple[Fact, ...]:
    """The facts that a complete answer states, in their usual order; none for a list."""
    if question.kind is Kind.LIST:
        return ()
    if question.kind is Kind.CHAIN:
        relation, attribute = question.attributes
        link = world.fact(question.entities[0], relation)
        return link, world.fact(link.value, attribute)
    return tuple(world.fact(e, a) for e in question.entities for a in question.attributes)


def needed_verdict(world: World, question: Question) -> Verdict:
    """The conclusion of a right answer."""
    return _verdict(question, needed_facts(world, question))


def _verdict(question: Question, facts: Sequence[Fact]) -> Verdict:
    if question.kind is Kind.COMPARE:
        return Verdict(entity=max(facts, key=lambda fact: int(fact.value)).entity)
    if question.kind is Kind.SAME:
        return Verdict(is_same=len({fact.value for fact in facts}) == 1)
    fitting = [fact.entity for fact in facts if fact.value == question.value]
    if question.kind is Kind.CHOOSE:
        return Verdict(entity=fitting[0] if fitting else facts[0].entity)
    return Verdict(number=len(fitting)) if question.kind is Kind.COUNT else Verdict()


# --- answers ------------------------------------------------------------------------------------


def answer(
    world: World, question: Question, drawn: random.Random, facts: Sequence[Fact] | None = None
) -> list[str]:
    """A good answer's sentences, the facts first and the verdict last.

    Args:
        world: it is true in.
        question: that it answers.
        drawn: the wordings, and the order of a description.
        facts: to state in place of the true ones; the verdict follows from them.
    """
    if question.kind is Kind.LIST:
        names = world.those_with(question.attributes[0], question.value)
        return [list_sentence(question.attributes[0], question.value, names, drawn)]
    stated = list(needed_facts(world, question) if facts is None else facts)
    verdict = _verdict(question, stated)
    sentences = [fact_sentence(fact, drawn) for fact in stated]
    return sentences + _conclusion(question.kind, verdict, drawn)


def fact_sentence(fact: Fact, drawn: random.Random) -> str:
    """A fact in one of its wordings."""
    return drawn.choice(wordings.FACTS[fact.attribute]).format(e=fact.entity, v=fact.value)


def list_sentence(
    attribute: Attribute, value: str, names: Sequence[str], drawn: random.Random
) -> str:
    """The entities that share a value, in one of the wordings of a list."""
    clause = wordings.CLAUSES[attribute].format(v=value)
    joined = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return drawn.choice(wordings.LISTS).format(c=clause, names=joined)


def _conclusion(kind: Kind, verdict: Verdict, drawn: random.Random) -> list[str]:
    if kind is Kind.COMPARE:
        return [drawn.choice(wordings.HEAVIER).format(e=verdict.entity)]
    if kind is Kind.CHOOSE:
        return [drawn.choice(wordings.CHOSEN).format(e=verdict.entity)]
    if kind is Kind.COUNT:
        return [drawn.choice(wordings.COUNTED).format(n=verdict.number)]
    if kind is Kind.SAME:
        return [drawn.choice(wordings.SAME_HOME[bool(verdict.is_same)])]
    return []


# --- drawing questions --------------------------------------------------------------------------


def draw_question(
    world: World, kind: Kind, entities: Sequence[str],
    lists: Sequence[tuple[Attribute, str]], drawn: random.Random,
) -> Question:  # fmt: skip
    """A question of a kind, about some of the entities or lists."""
    if kind in SINGLE:
        return Question(kind, (drawn.choice(entities),), (SINGLE[kind],))
    if kind is Kind.LIST:
        attribute, value = drawn.choice(lists)
        return Question(kind, (), (attribute,), value)
    if kind is Kind.PAIR:
        return Question(kind, (drawn.choice(entities),), tuple(drawn.sample(PROPERTIES, 2)))
    if kind is Kind.DESCRIBE:
        return Question(kind, (drawn.choice(entities),), PROPERTIES)
    if kind is Kind.CHAIN:
        both = (drawn.choice(RELATIONS), drawn.choice(PROPERTIES))
        return Question(kind, (drawn.choice(entities),), both)
    return _DRAWN[kind](world, entities, drawn)


def draw_open_question(
    world: World, kind: Kind, entities: Sequence[str],
    lists: Sequence[tuple[Attribute, str]], drawn: random.Random,
) -> Question:  # fmt: skip
    """A question of a kind that is not held out."""
    while True:
        question = draw_question(world, kind, entities, lists, drawn)
        if not is_held_out(world, question):
            return question


def _compare(world: World, entities: Sequence[str], drawn: random.Random) -> Question:
    first = drawn.choice(entities)
    weight = world.value(first, Attribute.WEIGHT)
    others = [e for e in entities if world.value(e, Attribute.WEIGHT) != weight]
    return Question(Kind.COMPARE, (first, drawn.choice(others)), (Attribute.WEIGHT,))


def _same(world: World, entities: Sequence[str], drawn: random.Random) -> Question:
    """Yes and no are as frequent, where some entity has a neighbour."""
    is_same = drawn.random() < 0.5
    for first in drawn.sample(entities, len(entities)):
        home = world.value(first, Attribute.HOME)
        same = [e for e in entities if world.value(e, Attribute.HOME) == home and e != first]
        others = same if is_same else [e for e in entities if e not in (first, *same)]
        if others:
            return Question(Kind.SAME, (first, drawn.choice(others)), (Attribute.HOME,))
    raise AssertionError("no two entities share a home, or all do")


def _choose(world: World, entities: Sequence[str], drawn: random.Random) -> Question:
    first = drawn.choice(entities)
    food = world.value(first, Attribute.FOOD)
    others = [e for e in entities if world.value(e, Attribute.FOOD) != food]
    three = [first, *drawn.sample(others, 2)]
    drawn.shuffle(three)
    return Question(Kind.CHOOSE, tuple(three), (Attribute.FOOD,), food)


def _count(world: World, entities: Sequence[str], drawn: random.Random) -> Question:
    """One, two and three are as frequent, as far as the entities allow."""
    color = drawn.choice(VALUES[Attribute.COLOR])
    those = [e for e in entities if world.value(e, Attribute.COLOR) == color]
    others = [e for e in entities if world.value(e, Attribute.COLOR) != color]
    number = min(drawn.randint(1, 3), len(those))
    three = [*drawn.sample(those, number), *drawn.sample(others, 3 - number)]
    drawn.shuffle(three)
    return Question(Kind.COUNT, tuple(three), (Attribute.COLOR,), color)


_DRAWN = {
    Kind.COMPARE: _compare, Kind.SAME: _same, Kind.CHOOSE: _choose, Kind.COUNT: _count,
}  # fmt: skip
