"""C4's rules (Raffel et al. 2020, arXiv 1910.10683, section 2.2) for a text as a whole.

C4 takes lines out of a page and then counts what is left. A segment stays as it is or goes: an
answer without its list or its code would be another one. So `C4_SENTENCES` counts the sentences of
those lines that C4 would keep. Its list of bad words is not here, because it is a file of words and
no number. Its duplicates of three sentences need other texts (`near_duplicates`).

The numbers are those of the paper's last version and of the code that made C4; the first version
says 5 sentences and 3 words.
"""

from __future__ import annotations

import re

from humpback_ray.method.quality.rules import Rule
from humpback_ray.method.quality.text import Text
from humpback_ray.rows import SegmentOutcome as Outcome

MIN_WORDS_OF_LINE = 5
_LINE_ENDS = (".", "!", "?", '"', "”")
_ELLIPSIS = "..."  # no end of a sentence; the paper does not say so, its code does
_NOT_IN_LINES = (
    "javascript",
    # Of the code alone, as notices of this kind.
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies",
)  # fmt: skip
# Before a small letter a point belongs to an abbreviation.
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s+[^\sa-z]|$)")


def num_curly_brackets(text: Text) -> int:
    """The number of `{` and `}`; C4 takes a page with one for code."""
    return text.text.count("{") + text.text.count("}")


def num_lorem_ipsum(text: Text) -> int:
    """The number of places that name the placeholder text."""
    return text.text.lower().count("lorem ipsum")


def num_sentences(text: Text) -> int:
    """The number of sentences in the lines that C4 would keep."""
    return sum(max(1, len(_SENTENCE_END.findall(line))) for line in text.lines if _is_kept(line))


def _is_kept(line: str) -> bool:
    if not line.endswith(_LINE_ENDS) or line.endswith(_ELLIPSIS):
        return False
    folded = line.lower()
    if any(phrase in folded for phrase in _NOT_IN_LINES):
        return False
    return len(line.split()) >= MIN_WORDS_OF_LINE


RULES = (
    Rule(Outcome.C4_LOREM_IPSUM, num_lorem_ipsum, at_most=0),
    Rule(Outcome.C4_CURLY_BRACKET, num_curly_brackets, at_most=0),
    Rule(Outcome.C4_SENTENCES, num_sentences, at_least=3),
)
