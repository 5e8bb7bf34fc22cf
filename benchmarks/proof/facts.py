"""The world: invented animals with properties and relations, all drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

NUM_ENTITIES = 64


class Attribute(StrEnum):
    """A property, whose value is a word, or a relation, whose value is an entity."""

    COLOR = "color"
    HOME = "home"
    FOOD = "food"
    WEIGHT = "weight"
    SOUND = "sound"
    MONTH = "waking month"
    FRIEND = "friend"
    RIVAL = "rival"


RELATIONS = (Attribute.FRIEND, Attribute.RIVAL)
PROPERTIES = tuple(attribute for attribute in Attribute if attribute not in RELATIONS)
# Properties whose values have lists of those that share them.
LISTED = (Attribute.COLOR, Attribute.HOME, Attribute.FOOD, Attribute.SOUND, Attribute.MONTH)

VALUES: Mapping[Attribute, tuple[str, ...]] = {
    Attribute.COLOR: (
        "red", "blue", "green", "yellow", "brown", "black", "white", "gray", "pink", "purple",
    ),
    Attribute.HOME: (
        "forest", "desert", "river", "cave", "meadow", "swamp", "canyon", "valley", "harbor",
        "garden", "lake", "tower",
    ),
    Attribute.FOOD: (
        "fish", "berries", "nuts", "grass", "honey", "roots", "seeds", "leaves", "eggs", "corn",
        "apples", "worms",
    ),
    Attribute.WEIGHT: ("2", "3", "4", "5", "6", "7", "8", "9"),
    Attribute.SOUND: (
        "hum", "whistle", "click", "growl", "song", "buzz", "chirp", "roar", "hiss", "squeak",
    ),
    Attribute.MONTH: (
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ),
}  # fmt: skip

_FIRST = ("ba", "do", "fi", "ga", "hu", "jo", "ka", "le", "mi", "no", "pu", "ra", "se", "ti",
          "vo", "wa", "ye", "zu")  # fmt: skip
_SECOND = ("bel", "dim", "fon", "gar", "kis", "lum", "mor", "nax", "pel", "qua", "rit", "sok",
           "tav", "vin", "wex", "zan")  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One value of one entity."""

    entity: str
    attribute: Attribute
    value: str


@dataclass(frozen=True)
class World:
    """Entities in order of their names, and the value of each of their attributes."""

    seed: int
    values: Mapping[str, Mapping[Attribute, str]]
    # Five of eight entities. The held-out questions are about them, the seed about the others;
    # `kinds.is_held_out` says which questions about them are in no text.
    asked: frozenset[str]
    # (attribute, value) whose lists are asked for, and by no page.
    asked_lists: frozenset[tuple[Attribute, str]]

    def value(self, entity: str, attribute: Attribute) -> str:
        return self.values[entity][attribute]

    def fact(self, entity: str, attribute: Attribute) -> Fact:
        return Fact(entity, attribute, self.value(entity, attribute))

    def is_true(self, fact: Fact) -> bool:
        return self.values.get(fact.entity, {}).get(fact.attribute) == fact.value

    @cached_property
    def entities(self) -> tuple[str, ...]:
        return tuple(sorted(self.values))

    @cached_property
    def in_seed(self) -> tuple[str, ...]:
        """Entities that the seed asks about."""
        return tuple(entity for entity in self.entities if entity not in self.asked)

    def those_with(self, attribute: Attribute, value: str) -> tuple[str, ...]:
        """Entities that share a value, in order of their names."""
        return tuple(e for e in self.entities if self.value(e, attribute) == value)

    @cached_property
    def lists(self) -> tuple[tuple[Attribute, str], ...]:
        """The (attribute, value) that at least two entities share."""
        return tuple(
            (attribute, value)
            for attribute in LISTED
            for value in VALUES[attribute]
            if len(self.those_with(attribute, value)) > 1
        )


def make_world(seed: int, num_entities: int = NUM_ENTITIES) -> World:
    """The world of a seed, a smaller one for short runs."""
    drawn = random.Random(f"world/{seed}")
    names = [(a + b).capitalize() for a in _FIRST for b in _SECOND]
    entities = drawn.sample(names, num_entities)
    values: dict[str, dict[Attribute, str]] = {entity: {} for entity in entities}
    for attribute in PROPERTIES:
        # Every value as often as any other, so that no guess is better than another.
        column = [VALUES[attribute][i % len(VALUES[attribute])] for i in range(num_entities)]
        drawn.shuffle(column)
        for entity, value in zip(entities, column, strict=True):
            values[entity][attribute] = value
    for number, attribute in enumerate(RELATIONS, start=1):
        # A cycle through all entities, so nobody is its own friend; two cycles with other steps, so
        # that a friend is no rival.
        order = entities if number == 1 else drawn.sample(entities, num_entities)
        for at, entity in enumerate(order):
            values[entity][attribute] = order[(at + number) % num_entities]
    asked = drawn.sample(sorted(entities), num_entities * 5 // 8)
    world = World(seed, values, frozenset(asked), frozenset())
    lists = drawn.sample(world.lists, len(world.lists) // 2)
    return World(seed, values, world.asked, frozenset(lists))
