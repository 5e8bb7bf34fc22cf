"""From what a rater wrote, or the probabilities it gave, to a score with an outcome."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from humpback_ray.rows import Finish, RatingOutcome

GRADES = range(1, 6)  # the paper's five; an additive rubric has a 0 as well

# One strict form: a last line of `Score: N` and nothing else. Letter case, Markdown emphasis
# around it, spaces and one full stop do not change what was said; "4/5", "4 out of 5", words and
# lists of scores do, and are failures with a name.
_SCORE_LINE = re.compile(
    r"^[*_`#>\s]*score[*_`\s]*:[*_`\s]*(?P<value>.*?)[*_`\s]*\.?[*_`\s]*$", re.I
)
# ASCII digits only: `\d` would also read other scripts' digits.
_INTEGER = re.compile(r"[+-]?[0-9]+")


def parse_rating(
    text: str, finish: Finish, grades: range = GRADES
) -> tuple[int | None, RatingOutcome]:
    """The grade on the last line of a rater's text, or why there is none.

    Args:
        text: the rater's whole answer: a rationale and `Score: N` on the last line that is not
            blank (paper, Table 19).
        finish: an answer cut at the token limit is never a rating, even when its last line looks
            like one: "Score: 1" may have been going to be "Score: 1 is too harsh".
        grades: those of the rubric; another integer is out of range.
    """
    if finish is Finish.ENGINE_ERROR:
        return None, RatingOutcome.ENGINE_ERROR
    if finish is Finish.PROMPT_TOO_LONG:
        return None, RatingOutcome.PROMPT_TOO_LONG
    if finish is Finish.LENGTH:
        return None, RatingOutcome.TRUNCATED
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None, RatingOutcome.EMPTY
    match = _SCORE_LINE.match(lines[-1].strip())
    if match is None:
        return None, RatingOutcome.NO_SCORE_LINE
    if not _INTEGER.fullmatch(match["value"]):
        return None, RatingOutcome.NOT_AN_INTEGER
    # Compared as text first: a number of a thousand digits is out of range, not an error.
    digits = match["value"].lstrip("+")
    if len(digits) > 1 or int(digits) not in grades:
        return None, RatingOutcome.OUT_OF_RANGE
    return int(digits), RatingOutcome.SCORED


class AnswerToken(NamedTuple):
    """A token of a rater's answer, and how likely each text was at its place."""

    text: str
    logprobs: Mapping[str, float]  # nats by text: the token itself and the likeliest others


def grade_logprobs(answer: Sequence[AnswerToken], grades: range = GRADES) -> tuple[float, ...]:
    """Log-probability of each grade at the first place where the answer gives one; () if nowhere.

    The place, and which tokens are grades there, is as `parse_rating` reads the text up to it. The
    probabilities of tokens for the same grade (` 4`, `4`) add up. A grade that is not among the
    tokens that the server lists has -inf: it is less likely than each of them, so with 20 of them
    what is left out is small where the rater is sure, and its share goes to the listed grades.
    """
    before = ""
    for token in answer:
        if _grade(before + token.text, grades) is not None:
            break
        before += token.text
    else:
        return ()
    probabilities = dict.fromkeys(grades, 0.0)
    for text, logprob in token.logprobs.items():
        grade = _grade(before + text, grades)
        if grade is not None:
            probabilities[grade] += math.exp(logprob)
    return tuple(math.log(p) if p else -math.inf for p in probabilities.values())


def _grade(text: str, grades: range) -> int | None:
    return parse_rating(text, Finish.STOP, grades)[0]


def grade_probabilities(log_probabilities: Sequence[float]) -> list[float] | None:
    """Probabilities of the grades given that one of them follows: one for each, summing to 1.

    None when no grade has any probability at all.
    """
    highest = max(log_probabilities)
    if not math.isfinite(highest):
        return None
    weights = [math.exp(value - highest) for value in log_probabilities]
    return [weight / sum(weights) for weight in weights]


def grade_mass(log_probabilities: Sequence[float]) -> float:
    """Probability that one of the grades follows: the rest is what else the rater would write."""
    return min(math.fsum(map(math.exp, log_probabilities)), 1.0)  # rounding may exceed 1


def tenths(score: float) -> int:
    """The tenth of a grade that a score lies in: 45 for scores from 4.5 to below 4.6."""
    # A score such as 4.6 is often stored a rounding error lower.
    return math.floor(score * 10 + 1e-9)


def expected_grade(probabilities: Sequence[float], grades: range = GRADES) -> float:
    """The mean grade under the grades' probabilities (as in G-Eval and arXiv 2503.03064)."""
    return sum(grade * p for grade, p in zip(grades, probabilities, strict=True))
