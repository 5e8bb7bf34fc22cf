"""Rules as rows of a table: an outcome, a measure of the text, and the values that are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from humpback_ray.method.quality.text import Text
from humpback_ray.rows import SegmentOutcome


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that keeps the texts whose measure lies within its limits."""

    outcome: SegmentOutcome  # of a text that breaks it
    measure: Callable[[Text], float]
    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def keeps(self, text: Text) -> bool:
        value = self.measure(text)
        return self.at_least <= value <= self.at_most and self.above < value < self.below


def first_broken(text: str, rules: Iterable[Rule]) -> SegmentOutcome | None:
    """The outcome of the first rule that a text breaks; None if it keeps all."""
    measured = Text(text)
    return next((rule.outcome for rule in rules if not rule.keeps(measured)), None)
