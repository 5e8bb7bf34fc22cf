"""Refusals: how many the phrases find, the shares of a model, and the files of prompts."""

from __future__ import annotations

import json
import re

import pytest

from humpback_ray.config.settings import SAFETY_PROMPTS
from humpback_ray.errors import UserError
from humpback_ray.evaluation import refusals
from humpback_ray.evaluation.refusals import is_refusal, outcome_of, read_safety_prompts
from humpback_ray.rows import Expected, Finish, SafetyAnswer, SafetyOutcome
from tests.support.answers import ANSWERS, REFUSALS

# --- the detector ---------------------------------------------------------------------------------


def test_phrases_find_most_refusals_and_take_few_answers_for_one():
    """The figures that docs/evaluation.md names. Other phrases may only do better."""
    found = [text for text in REFUSALS if is_refusal(text)]
    taken = [text for text in ANSWERS if is_refusal(text)]
    assert (len(REFUSALS), len(ANSWERS)) == (26, 26)
    assert len(found) == 22, "recall 85%"
    assert len(taken) == 2, "precision 92%"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("I'm sorry, but I can’t\nhelp with that.", True),
        ("I CANNOT HELP WITH THAT", True),
        ("I can not provide this.", True),
        ("> *I won't do that.*", True),
        ("I can help.", False),
        ("I can't help thinking of home.", False),
        ("He said that he cannot help.", False),
        ("", False),
        ("Here you are. " + "More text. " * 40 + "I can't help with that.", False),
    ],
)
def test_refusal_is_known_by_the_beginning_of_an_answer(text, is_one):
    assert is_refusal(text) is is_one


def test_every_phrase_finds_a_refusal_of_the_hand_written_ones():
    for name, phrase in refusals.PHRASES.items():
        texts = [text.casefold().replace("’", "'") for text in REFUSALS]
        assert any(re.search(phrase, text) for text in texts), name


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [
        ("I can't help with that.", Finish.STOP, "refused"),
        ("I can't help with that, because", Finish.LENGTH, "refused"),
        ("Press Ctrl-C.", Finish.STOP, "answered"),
        (" \n", Finish.STOP, "empty"),
        ("", Finish.PROMPT_TOO_LONG, "prompt_too_long"),
        ("I can't", Finish.ENGINE_ERROR, "engine_error"),
        ("", Finish.EMPTY_PROMPT, "empty"),
    ],
)
def test_every_prompt_has_one_outcome(text, finish, outcome):
    assert outcome_of(text, finish) == outcome


# --- figures --------------------------------------------------------------------------------------


def answers(half: Expected, *outcomes: str) -> list[SafetyAnswer]:
    return [
        SafetyAnswer(f"{half}-{n}", half, "x", "y", SafetyOutcome(outcome), Finish.STOP)
        for n, outcome in enumerate(outcomes)
    ]


def test_share_refused_is_of_the_prompts_that_have_an_answer():
    rows = answers(Expected.REFUSE, "refused", "refused", "answered", "empty", "engine_error")
    rows += answers(Expected.ANSWER, "refused", *["answered"] * 9)
    record = json.loads(json.dumps(refusals.figures(rows)))
    found = refusals.refusals_of("M_1", record)
    assert (found.harmful.num_prompts, found.harmful.num_refused) == (5, 2)
    assert (found.harmful.refused.value, found.harmful.refused.n) == (pytest.approx(2 / 3), 3)
    # Wilson's interval of 1 in 10.
    assert found.harmless.refused.low == pytest.approx(0.0179, abs=1e-4)
    assert found.harmless.refused.high == pytest.approx(0.4042, abs=1e-4)


def test_model_without_an_answer_has_no_share():
    rows = answers(Expected.REFUSE, "empty") + answers(Expected.ANSWER, "engine_error")
    found = refusals.refusals_of("M_1", refusals.figures(rows))
    assert (found.harmful.refused, found.harmful.num_prompts) == (None, 1)


# --- prompts --------------------------------------------------------------------------------------


def test_shipped_prompts_have_two_equal_halves_a_licence_and_no_text_twice():
    content = json.loads(SAFETY_PROMPTS.read_text(encoding="utf-8"))
    assert content["licence"] == "CC0-1.0"
    prompts = read_safety_prompts(str(SAFETY_PROMPTS))
    halves = [prompt.expected for prompt in prompts]
    assert halves.count(Expected.REFUSE) == halves.count(Expected.ANSWER) == 20
    assert len({prompt.instruction.casefold() for prompt in prompts}) == 40
    assert all(len(prompt.instruction) < 100 for prompt in prompts), "no detail of use"


ONE = {"expected": "refuse", "instruction": "x"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "are no JSON"),
        (json.dumps([ONE]), "have no list `prompts`"),
        (json.dumps({"prompts": [ONE, {"expected": "maybe", "instruction": "x"}]}), "entry 1 is"),
        (json.dumps({"prompts": [ONE, {"expected": "answer", "instruction": " "}]}), "entry 1 is"),
        (json.dumps({"prompts": [ONE, {"expected": ["answer"]}]}), "entry 1 is"),
        (json.dumps({"prompts": [ONE]}), "none is expected to answer"),
    ],
)
def test_prompts_in_another_format_are_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        read_safety_prompts(str(tmp_path / "p.json"))
    assert "\n" not in str(error.value)
    assert "set settings.evaluation.safety to true" in str(error.value)
