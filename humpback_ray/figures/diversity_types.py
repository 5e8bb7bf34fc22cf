"""Figures about what instructions ask for, in which languages, and where segments come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DiversityFigures:
    """Diversity of instructions.

    All but `repeated_share` is over equally many of each set, drawn at random, because it changes
    with their number. `distinct` holds the share of different n-grams of words among all of them,
    for n = 1, 2, 3.
    """

    name: str
    n: int  # instructions looked at
    of: int  # instructions of the set
    num_words: int
    distinct: tuple[float | None, float | None, float | None]
    near_duplicate_share: float | None  # of the n, those like another one of the n
    repeated_share: float | None  # of the set, instructions whose text another one of the set has


@dataclass(frozen=True)
class LanguageFigures:
    """Languages of drawn texts of a set, as a detector guesses them from the use of letters."""

    name: str
    what: str  # instruction or response
    n: int  # texts that the detector was asked about
    num_too_short: int  # of the drawn texts, and not asked about
    num_unknown: int  # of n
    languages: Mapping[str, int]  # by ISO 639 code, the most frequent first


@dataclass(frozen=True)
class VerbFigures:
    """Root verbs and their direct objects in the first sentences of a set's instructions."""

    name: str
    parser: str
    n: int  # instructions parsed
    num_found: int  # of them, with a root verb that has a direct object
    num_different: int  # pairs of verb and object
    verbs: list[Verb]  # the most frequent first


@dataclass(frozen=True)
class Verb:
    """A root verb with its most frequent direct objects."""

    verb: str
    count: int
    objects: Mapping[str, int]


@dataclass(frozen=True)
class SourceFigures:
    """Places from which segments come."""

    name: str  # host, or ending of a file's name
    num_segments: int
    num_selected: int | None  # of them, in the last selection
