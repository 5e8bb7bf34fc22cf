"""Golden prompts. A change here changes what every model of a run is trained on and asked."""

from __future__ import annotations

import string

import pytest

from humpback_ray.config.settings import PromptSettings
from humpback_ray.method import prompts

TAGS = PromptSettings()


def test_default_tags_are_the_papers():
    assert TAGS.seed_tag == "Answer in the style of an AI Assistant."
    assert TAGS.web_tag == "Answer with knowledge from web search."


def test_forward_prompt_ends_with_the_seed_tag():
    assert prompts.render("Name a fruit.", TAGS.seed_tag) == (
        "### Request\nName a fruit.\nAnswer in the style of an AI Assistant.\n\n### Answer\n"
    )


def test_inference_prompt_has_both_tags_in_order():
    assert prompts.render("Name a fruit.", *prompts.inference_tags(TAGS)) == (
        "### Request\nName a fruit.\nAnswer in the style of an AI Assistant.\n"
        "Answer with knowledge from web search.\n\n### Answer\n"
    )


def test_backward_prompt_ends_with_the_seed_tag():
    assert prompts.render(prompts.backward_prompt(" An apple.\n"), TAGS.seed_tag) == (
        "### Request\nBelow is a text that was given as an answer. Write the one request that "
        "somebody most likely made to get it, a request to which this text would be a great "
        "answer. Write nothing but the request.\n\nText:\nAn apple.\n"
        "Answer in the style of an AI Assistant.\n\n### Answer\n"
    )


def test_rating_prompt_has_the_rubric_first_and_the_answer_format_last():
    text = prompts.rating_prompt(
        prompts.RATING_TEMPLATE, "Name a fruit.", "An apple.", reasoning=True
    )
    assert text.startswith("You judge how good a training example an answer would make")
    assert text.endswith(
        "Request:\nName a fruit.\n\nAnswer to judge:\nAn apple.\n\nFirst explain in a few "
        "sentences which grade fits and why. Then end with one last line of the form "
        '"Score: N", where N is the grade.'
    )
    for grade in range(1, 6):
        assert f"\n{grade} - The answer" in text


def test_additive_rubric_grades_from_0_to_5_with_five_points():
    text = prompts.rating_prompt(
        prompts.RUBRICS["additive"], "Name a fruit.", "An apple.", reasoning=False
    )
    assert "from 0 to 5" in text
    for point in ("First", "Second", "Third", "Fourth", "Fifth"):
        assert text.count(f"\n{point} point, ") == 1
    assert text.endswith(
        "Request:\nName a fruit.\n\nAnswer to judge:\nAn apple.\n\n"
        'Reply with one line of the form "Score: N", where N is the grade.'
    )


@pytest.mark.parametrize("reasoning", [True, False])
@pytest.mark.parametrize("rubric", list(prompts.RUBRICS))
def test_shared_rating_text_is_all_text_before_the_pair(rubric, reasoning):
    shared = prompts.shared_rating_text(prompts.RUBRICS[rubric], reasoning=reasoning)
    prompt = prompts.rating_prompt(prompts.RUBRICS[rubric], "X", "Y", reasoning=reasoning)
    assert prompts.render(prompt).partition("X\n")[0] == shared


def test_shared_rating_text_of_a_users_template_ends_at_a_line_break():
    template = string.Template("  $$5 $answer_format\nOf ${response}\nand $instruction")
    shared = prompts.shared_rating_text(template, reasoning=False)
    assert shared == f"{prompts.USER_MARKER}$5 {prompts.SCORE_ONLY}\n"
    no_line_break = string.Template("Judge $instruction\n$response\n$answer_format")
    assert prompts.shared_rating_text(no_line_break, reasoning=False) == ""


def test_rating_prompts_of_all_pairs_begin_with_the_rubric():
    first, second = (
        prompts.rating_prompt(prompts.RATING_TEMPLATE, x, y, reasoning=False)
        for x, y in (("Name a fruit.", "An apple."), ("Why?", "Because."))
    )
    rubric = prompts.RATING_TEMPLATE.template.partition("$")[0]
    assert len(rubric) > 1000
    assert first.startswith(rubric)
    assert second.startswith(rubric)


def test_braces_and_dollars_in_data_are_kept():
    text = prompts.rating_prompt(
        prompts.RATING_TEMPLATE, "What is {x} of $response?", "$5 {y} $$", reasoning=False
    )
    assert "What is {x} of $response?" in text
    assert "$5 {y} $$" in text
    assert "$5 {y} $$" in prompts.backward_prompt("$5 {y} $$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$instruction $response", r"\$answer_format is missing"),
        ("$instruction $answer_format", r"\$response is missing"),
        ("$instruction $response $answer_format $grade", r"unknown placeholder \$grade"),
        ("costs 5$ $instruction $response $answer_format", "starts no placeholder"),
    ],
)
def test_rating_template_with_wrong_placeholders_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        prompts.rating_template(text)
