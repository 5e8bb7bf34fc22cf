"""Outcomes as a person reads them."""

from __future__ import annotations

from humpback_ray.rows import Finish, RatingOutcome, SegmentOutcome

_WORDS: dict[str, str] = {
    Finish.LENGTH: "cut at the token limit",
    RatingOutcome.CUT_INSTRUCTION: "instruction cut at the token limit",
    SegmentOutcome.SURPLUS: "above the number asked for",
    SegmentOutcome.NO_HEADER: "page without a header",
    SegmentOutcome.GOPHER_WORDS: "Gopher: number of words",
    SegmentOutcome.GOPHER_WORD_LENGTH: "Gopher: mean length of words",
    SegmentOutcome.GOPHER_HASHES: "Gopher: hash signs",
    SegmentOutcome.GOPHER_ELLIPSES: "Gopher: ellipses",
    SegmentOutcome.GOPHER_BULLET_LINES: "Gopher: lines with a bullet",
    SegmentOutcome.GOPHER_ELLIPSIS_LINES: "Gopher: lines that end in an ellipsis",
    SegmentOutcome.GOPHER_ALPHABETIC_WORDS: "Gopher: words without a letter",
    SegmentOutcome.GOPHER_STOP_WORDS: "Gopher: too few stop words",
    SegmentOutcome.GOPHER_LINES: "Gopher: repeated lines",
    SegmentOutcome.GOPHER_PARAGRAPHS: "Gopher: repeated paragraphs",
    SegmentOutcome.GOPHER_LINE_CHARACTERS: "Gopher: characters in repeated lines",
    SegmentOutcome.GOPHER_PARAGRAPH_CHARACTERS: "Gopher: characters in repeated paragraphs",
    SegmentOutcome.GOPHER_TOP_2_GRAM: "Gopher: most frequent 2-gram",
    SegmentOutcome.GOPHER_TOP_3_GRAM: "Gopher: most frequent 3-gram",
    SegmentOutcome.GOPHER_TOP_4_GRAM: "Gopher: most frequent 4-gram",
    SegmentOutcome.GOPHER_5_GRAMS: "Gopher: repeated 5-grams",
    SegmentOutcome.GOPHER_6_GRAMS: "Gopher: repeated 6-grams",
    SegmentOutcome.GOPHER_7_GRAMS: "Gopher: repeated 7-grams",
    SegmentOutcome.GOPHER_8_GRAMS: "Gopher: repeated 8-grams",
    SegmentOutcome.GOPHER_9_GRAMS: "Gopher: repeated 9-grams",
    SegmentOutcome.GOPHER_10_GRAMS: "Gopher: repeated 10-grams",
    SegmentOutcome.C4_LOREM_IPSUM: "C4: lorem ipsum",
    SegmentOutcome.C4_CURLY_BRACKET: "C4: curly brackets",
    SegmentOutcome.C4_SENTENCES: "C4: too few sentences",
    SegmentOutcome.FINEWEB_LINE_ENDS: "FineWeb: lines without punctuation at the end",
    SegmentOutcome.FINEWEB_DUPLICATE_LINES: "FineWeb: characters in repeated lines",
    SegmentOutcome.FINEWEB_SHORT_LINES: "FineWeb: short lines",
    SegmentOutcome.FINEWEB_LINE_BREAKS: "FineWeb: line breaks per word",
    SegmentOutcome.FORM_LIST: "form of a list",
    SegmentOutcome.FORM_HOW_TO: "form of a how-to",
    SegmentOutcome.FORM_FIRST_PERSON: "written in the first person",
}


def in_words(outcome: str) -> str:
    """An outcome as a person reads it."""
    return _WORDS.get(outcome, outcome.replace("_", " "))
