"""The part of a report on diversity, verbs, languages and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from humpback_ray.figures.diversity import LANGUAGE_CHARACTERS
from humpback_ray.figures.types import RunFigures
from humpback_ray.method.diversity import NEAR_DUPLICATE_JACCARD
from humpback_ray.report.document import Block, Cell, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import count, percent


def diversity_blocks(figures: RunFigures) -> Iterator[Block]:
    """Tables on the instructions of each set, and on the sources of the segments."""
    if figures.diversity:
        yield _diversity(figures)
    if figures.verbs:
        yield _verb_shares(figures)
        yield _verbs(figures)
    if figures.languages:
        yield _languages(figures)
    if figures.sources:
        yield _sources(figures)


def _diversity(figures: RunFigures) -> Table:
    return Table(
        "Diversity of the instructions",
        ("set", "instructions", "compared", "words", "distinct words", "distinct bigrams",
         "distinct trigrams", "near-duplicates", "repeated"),
        [
            (
                d.name, count(d.of), count(d.n), count(d.num_words), *map(percent, d.distinct),
                percent(d.near_duplicate_share), percent(d.repeated_share),
            )
            for d in figures.diversity
        ],
        note="Compared: equally many instructions of each set, drawn at random. Distinct: their "
        "different n-grams of words over all their n-grams. Near-duplicates: those of them that "
        f"share at least {NEAR_DUPLICATE_JACCARD:.0%} of their trigrams of words with another one; "
        "in a larger sample they are more. Repeated: instructions of the whole set whose text "
        "another one has.",
    )  # fmt: skip


def _verb_shares(figures: RunFigures) -> Table:
    parsers = ", ".join(dict.fromkeys(verbs.parser for verbs in figures.verbs))
    return Table(
        "Root verbs with a direct object",
        ("set", "parsed", "with both", "share", "different"),
        [
            (v.name, count(v.n), count(v.num_found), percent(v.num_found / v.n),
             count(v.num_different))
            for v in figures.verbs
        ],
        note=f"In the first sentence of instructions drawn at random, by {cut(parsers)}.",
    )  # fmt: skip


def _verbs(figures: RunFigures) -> Table:
    return Table(
        "Most frequent root verbs and their objects",
        ("set", "verb", "instructions", "objects"),
        [
            (v.name, cut(verb.verb, 40), count(verb.count), _listed(verb.objects))
            for v in figures.verbs
            for verb in v.verbs
        ],
        frozenset({0, 1, 3}),
        is_folded=True,
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{cut(name, 40)} {number:,}" for name, number in counts.items())


def _languages(figures: RunFigures) -> Table:
    return Table(
        "Languages",
        ("set", "text", "asked about", "too short", "unknown", "languages"),
        [
            (
                each.name, each.what, count(each.n), count(each.num_too_short),
                count(each.num_unknown), _listed(each.languages) or "–",
            )
            for each in figures.languages
        ],
        frozenset({0, 1, 5}),
        note="Guesses of resiliparse's detector, by ISO 639 code, on texts drawn at random. It is "
        f"asked about texts of at least {LANGUAGE_CHARACTERS} characters, because it errs for "
        "shorter ones, and takes lists and code for rare languages.",
        is_folded=True,
    )  # fmt: skip


def _sources(figures: RunFigures) -> Table:
    total = sum(source.num_segments for source in figures.sources)
    return Table(
        "Sources of the segments",
        ("source", "segments", "share", "selected last"),
        [
            (
                cut(source.name, 80), count(source.num_segments),
                Cell(percent(source.num_segments / total), source.num_segments / total),
                count(source.num_selected),
            )
            for source in figures.sources
        ],
        is_folded=True,
    )  # fmt: skip
