"""The rating parser on ugly outputs, and the expected grade."""

import math

import pytest

from humpback_ray.method.rating import (
    AnswerToken,
    expected_grade,
    grade_logprobs,
    grade_mass,
    grade_probabilities,
    parse_rating,
    tenths,
)
from humpback_ray.rows import Finish, RatingOutcome

SCORED = RatingOutcome.SCORED
NONE = RatingOutcome.NO_SCORE_LINE
NOT_INTEGER = RatingOutcome.NOT_AN_INTEGER
RANGE = RatingOutcome.OUT_OF_RANGE
EMPTY = RatingOutcome.EMPTY

MATRIX = [
    # the form that was asked for, and harmless dress
    ("It is clear.\nScore: 4", 4, SCORED),
    ("Score: 1", 1, SCORED),
    ("reasons\n\nScore: 5\n\n\n", 5, SCORED),
    ("reasons\r\nScore: 3\r\n", 3, SCORED),
    ("reasons\n  score :  2 ", 2, SCORED),
    ("reasons\nSCORE:5", 5, SCORED),
    ("reasons\n**Score: 4**", 4, SCORED),
    ("reasons\n**Score:** 4", 4, SCORED),
    ("reasons\n### Score: 4", 4, SCORED),
    ("reasons\n> `Score: 4`", 4, SCORED),
    ("reasons\nScore: 4.", 4, SCORED),
    ("Score: 2\nOn second thought.\nScore: 5", 5, SCORED),
    ("Ça va, 很好.\nScore: 3", 3, SCORED),
    ("reasons\nScore: +4", 4, SCORED),
    # no score line
    ("It is a good answer, I would give it 5.", None, NONE),
    ("Score: 4\nThat is because it is clear.", None, NONE),
    ("The final score is 4", None, NONE),
    ("reasons, so Score: 4", None, NONE),
    ("4", None, NONE),
    ("Rating: 4", None, NONE),
    ("Scores: 4", None, NONE),
    ("Score 4", None, NONE),
    ("\\boxed{4}", None, NONE),
    ('{"Score": 4}', None, NONE),
    # a score line that holds something else
    ("reasons\nScore:", None, NOT_INTEGER),
    ("reasons\nScore: four", None, NOT_INTEGER),
    ("reasons\nScore: N", None, NOT_INTEGER),
    ("reasons\nScore: 4.5", None, NOT_INTEGER),
    ("reasons\nScore: 4/5", None, NOT_INTEGER),
    ("reasons\nScore: 4 out of 5", None, NOT_INTEGER),
    ("reasons\nScore: 3 or 4", None, NOT_INTEGER),
    ("reasons\nScore: 4-5", None, NOT_INTEGER),
    ("reasons\nScore: [4]", None, NOT_INTEGER),
    ("reasons\nScore: ٤", None, NOT_INTEGER),
    ("reasons\nScore: ④", None, NOT_INTEGER),
    ("reasons\nScore: Score: 4", None, NOT_INTEGER),
    # numbers that are no grade
    ("reasons\nScore: 0", None, RANGE),
    ("reasons\nScore: 6", None, RANGE),
    ("reasons\nScore: -3", None, RANGE),
    ("reasons\nScore: 10502", None, RANGE),
    ("reasons\nScore: 05", None, RANGE),
    ("reasons\nScore: " + "9" * 5000, None, RANGE),
    # nothing
    ("", None, EMPTY),
    (" \n\t\n", None, EMPTY),
]  # fmt: skip


@pytest.mark.parametrize(("text", "score", "outcome"), MATRIX)
def test_rating_text_is_parsed_to_its_score_and_outcome(text, score, outcome):
    assert parse_rating(text, Finish.STOP) == (score, outcome)


def test_matrix_covers_every_outcome_of_the_text():
    assert len(MATRIX) >= 30
    assert {outcome for _, _, outcome in MATRIX} == {SCORED, NONE, NOT_INTEGER, RANGE, EMPTY}


@pytest.mark.parametrize(
    ("finish", "outcome"),
    [
        (Finish.LENGTH, RatingOutcome.TRUNCATED),
        (Finish.PROMPT_TOO_LONG, RatingOutcome.PROMPT_TOO_LONG),
        (Finish.ENGINE_ERROR, RatingOutcome.ENGINE_ERROR),
    ],
)
def test_answer_that_did_not_end_by_itself_is_no_rating(finish, outcome):
    assert parse_rating("reasons\nScore: 5", finish) == (None, outcome)


def test_expected_grade_is_the_mean_under_the_probabilities():
    probabilities = grade_probabilities([math.log(p) for p in (0.1, 0.1, 0.2, 0.2, 0.4)])
    assert probabilities == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4])
    assert expected_grade(probabilities) == pytest.approx(3.7)


def test_grade_probabilities_of_unlikely_grades_add_up_to_one():
    # All five grades together may be unlikely; only their proportions count, also far down.
    probabilities = grade_probabilities([-1000.0, -1000.0, -1000.0, -1000.0, -math.inf])
    assert probabilities == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0])
    assert expected_grade(probabilities) == pytest.approx(2.5)


def test_grade_mass_is_the_probability_that_a_grade_follows():
    assert grade_mass([math.log(p) for p in (0.1, 0.05, 0.05, 0.1, 0.1)]) == pytest.approx(0.4)
    assert grade_mass([-60, -61, -62, -63, -64]) == pytest.approx(1.376e-26, rel=1e-3)
    assert grade_mass([-math.inf] * 5) == 0.0
    assert grade_mass([math.log(0.2)] * 5 + [1e-12]) == 1.0, "rounding gives no more than 1"


@pytest.mark.parametrize(
    ("score", "tenth"), [(4.5, 45), (4.6, 46), (4.5999, 45), (1.0, 10), (5.0, 50), (0.0, 0)]
)
def test_tenths_of_a_score_are_rounded_down(score, tenth):
    assert tenths(score) == tenth


def test_grades_that_are_impossible_have_no_probabilities():
    assert grade_probabilities([-math.inf] * 5) is None


def test_rubric_of_points_allows_the_grade_zero():
    assert parse_rating("reasons\nScore: 0", Finish.STOP) == (None, RANGE)
    assert parse_rating("reasons\nScore: 0", Finish.STOP, range(6)) == (0, SCORED)
    assert parse_rating("reasons\nScore: 6", Finish.STOP, range(6)) == (None, RANGE)
    assert expected_grade([0.5, 0.0, 0.0, 0.0, 0.0, 0.5], range(6)) == pytest.approx(2.5)
    assert expected_grade([0.0, 0.0, 0.0, 0.0, 0.4, 0.6], range(6)) >= 4.5


# --- grades among the likeliest tokens of a written answer ----------------------------------------


def answer(*tokens: tuple[str, dict[str, float]]) -> list[AnswerToken]:
    """Tokens with the probabilities of the likeliest ones at their places."""
    return [
        AnswerToken(text, {text: 0.0} | {other: math.log(p) for other, p in likely.items()})
        for text, likely in tokens
    ]


def shares_of(tokens: list[AnswerToken], grades: range = range(1, 6)) -> list[float]:
    return [math.exp(value) for value in grade_logprobs(tokens, grades)]


@pytest.mark.parametrize(
    "before",
    [["Score", ":"], ["Score:", " "], ["**", "Score", ":**"], ["It reads well.", "\n", "Score:"]],
)
def test_grade_log_probabilities_are_read_at_the_written_grade(before):
    tokens = answer(*((text, {}) for text in before), (" 4", {" 4": 0.5, " 5": 0.25, " x": 0.25}))
    assert shares_of(tokens) == pytest.approx([0, 0, 0, 0.5, 0.25])


def test_tokens_of_the_same_grade_add_up_and_others_do_not_count():
    likely = {" 4": 0.3, "4": 0.2, " 5": 0.1, " 10": 0.1, " four": 0.1, " 0": 0.05}
    tokens = answer(("Score:", {}), (" 4", likely))
    assert shares_of(tokens) == pytest.approx([0, 0, 0, 0.5, 0.1])
    assert shares_of(tokens, range(6)) == pytest.approx([0.05, 0, 0, 0, 0.5, 0.1])


def test_an_answer_without_a_grade_has_no_log_probabilities():
    assert grade_logprobs(answer(("A", {}), (" 4", {})), range(1, 6)) == ()
    assert grade_logprobs([], range(1, 6)) == ()
