"""The corpus rules: the sections that become segments, and an outcome for each rule."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from humpback_ray.method.characters import has_unstorable, without_unstorable
from humpback_ray.method.languages import is_in_language
from humpback_ray.method.quality import c4, fineweb, forms, gopher
from humpback_ray.method.quality.rules import Rule, first_broken
from humpback_ray.rows import SegmentOutcome

if TYPE_CHECKING:
    from humpback_ray.config.settings import CorpusSettings
    from humpback_ray.method.segmenting import Section


def outcome_of(section: Section, settings: CorpusSettings) -> SegmentOutcome:
    """KEPT, or the first rule that the section breaks.

    The rules in order: characters, header, length, language, repetition (arXiv 2308.06259, section
    3.1 and appendix A, but for the language), and the sets of rules that the settings name.
    Duplicates need the other sections: see `method.duplicates`.
    """
    if has_invalid_characters(section.text):
        return SegmentOutcome.INVALID_CHARACTERS
    if section.header is not None and (dropped := _outcome_of_header(section.header, settings)):
        return dropped
    if len(section.text) < settings.min_characters:
        return SegmentOutcome.TOO_SHORT
    if len(section.text) > settings.max_characters:
        return SegmentOutcome.TOO_LONG
    if settings.language is not None and not is_in_language(
        section.text, settings.language, settings.language_margin
    ):
        return SegmentOutcome.OTHER_LANGUAGE
    if _repeats_itself(section.text, settings.repetition_ngram, settings.repetition_jaccard):
        return SegmentOutcome.REPETITIVE
    rules = _rules(settings.quality_rules, settings.form_rules)
    return first_broken(section.text, rules) or SegmentOutcome.KEPT


_QUALITY_RULES = {"gopher": gopher.RULES, "c4": c4.RULES, "fineweb": fineweb.RULES}


@lru_cache
def _rules(quality_rules: tuple[str, ...], form_rules: tuple[str, ...]) -> tuple[Rule, ...]:
    sets = [_QUALITY_RULES[name] for name in _QUALITY_RULES if name in quality_rules]
    return (*(rule for rules in sets for rule in rules), *map(forms.RULES.__getitem__, form_rules))


def gives_way(section: Section, outcome: SegmentOutcome, settings: CorpusSettings) -> bool:
    """True where a section's sub-sections take its place; those of a short one are shorter still.

    The paper takes the tree under every header node, so the sub-sections of a refused section are
    candidates. Those of a kept one are part of it.
    """
    return outcome is not SegmentOutcome.KEPT and len(section.text) >= settings.min_characters


def normalise(text: str) -> str:
    """The text as it is compared: Unicode NFKC, case folded, runs of white space as one space."""
    if text.isascii():  # NFKC leaves it as it is
        return " ".join(text.casefold().split())
    pieces = (text[begin : begin + _PIECE] for begin in range(0, len(text), _PIECE))
    composed = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)
    return " ".join(composed.casefold().split())


# Characters normalised at a time: Python sorts a run of combining marks in a time that is quadratic
# in its length, minutes for a page of nothing else. Segments are shorter.
_PIECE = 2**12


def segment_id(text: str) -> str:
    """128 bits of the SHA-256 of the normalised text, as 32 hexadecimal digits."""
    normalised = normalise(text).encode("utf-8", "surrogatepass")
    return hashlib.sha256(normalised).hexdigest()[:32]


def storable(text: str, max_characters: int) -> str:
    """The first `max_characters` characters as Arrow can hold them.

    Lone surrogates, which have no UTF-8, and NULs are replaced by U+FFFD.
    """
    return without_unstorable(text[:max_characters])


def has_invalid_characters(text: str) -> bool:
    """True for a text with NULs, lone surrogates, or U+FFFD, the mark of undecodable bytes."""
    return "\ufffd" in text or has_unstorable(text)


def _outcome_of_header(header: str, settings: CorpusSettings) -> SegmentOutcome | None:
    if not header.strip():
        return SegmentOutcome.EMPTY_HEADER
    letters = [character for character in header if character.isalpha()]
    if len(letters) >= 2 and all(letter.isupper() for letter in letters):
        return SegmentOutcome.UPPERCASE_HEADER
    folded = header.casefold()
    if any(phrase.casefold() in folded for phrase in settings.navigation_headers):
        return SegmentOutcome.NAVIGATION_HEADER
    return None


# --- repetition ---------------------------------------------------------------------------------

_WORD = re.compile(r"\w(?:\S*\w)?")  # without the punctuation around it
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")

# Shorter sentences are not compared: lines of code and list items are alike without being
# repetition. On the READMEs of the installed packages this drops 4% of the segments of the right
# length; comparing sentences from 3 words on would drop 24%.
_MIN_WORDS = 8


def _repeats_itself(text: str, ngram: int, threshold: float) -> bool:
    """True where the word n-grams of two sentences have a Jaccard index above `threshold`."""
    grams_of: list[set[tuple[str, ...]]] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    min_words = max(ngram, _MIN_WORDS)
    for sentence in _SENTENCE_END.split(text):
        normalised = normalise(sentence)
        if normalised.count(" ") + 1 < min_words:
            continue
        words = _WORD.findall(normalised)
        if len(words) < min_words:
            continue
        grams = set(zip(*(words[begin:] for begin in range(ngram)), strict=False))
        shared = Counter(earlier for gram in grams & holders.keys() for earlier in holders[gram])
        for earlier, num_shared in shared.items():
            if num_shared > threshold * (len(grams) + len(grams_of[earlier]) - num_shared):
                return True
        for gram in grams:
            holders[gram].append(len(grams_of))
        grams_of.append(grams)
    return False
