"""Forms of text that a user may not want as answers: lists, instructions, personal stories.

Rules and numbers are ours, for English, and no more than heuristics.
"""

from __future__ import annotations

import re

from humpback_ray.method.quality.rules import Rule
from humpback_ray.method.quality.text import Text
from humpback_ray.rows import SegmentOutcome as Outcome

_ITEM = re.compile(r"[-*•] |\(?[0-9]{1,3}[.)] ")
_FIRST_PERSON = frozenset(["i", "i'm", "i've", "i'd", "i'll", "me", "my", "mine", "myself"])
_HOW_TO = re.compile(r"how (?:to|do|can) ", re.IGNORECASE)
_STEP = re.compile(r"(?:[-*•] )?(?:step [0-9]{1,2}\b|(?:first|next|then|finally),)", re.IGNORECASE)
_MIN_STEPS = 3


def share_of_items(text: Text) -> float:
    """The share of lines that are items of a list."""
    return text.share_of_lines(sum(_ITEM.match(line) is not None for line in text.lines))


def num_steps(text: Text) -> int:
    """The number of lines that begin as steps do; a first line that says how stands for enough."""
    if text.lines and _HOW_TO.match(text.lines[0]):
        return _MIN_STEPS
    return sum(_STEP.match(line) is not None for line in text.lines)


def share_of_first_person(text: Text) -> float:
    """The share of words by which a writer speaks of themselves."""
    folded = (word.replace("’", "'") for word in text.folded_words)
    return text.per_word(sum(word in _FIRST_PERSON for word in folded))


RULES = {
    "list": Rule(Outcome.FORM_LIST, share_of_items, at_most=0.5),
    "how_to": Rule(Outcome.FORM_HOW_TO, num_steps, below=_MIN_STEPS),
    # One word in 25. Accounts of one's own life have about one in 15, explanations hardly any.
    "first_person": Rule(Outcome.FORM_FIRST_PERSON, share_of_first_person, at_most=0.04),
}
