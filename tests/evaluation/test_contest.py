"""Contests: who plays, on which prompts, and which answers count."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation.contest import Contest, contest_of
from humpback_ray.evaluation.model_outputs import ModelOutputs, Output
from humpback_ray.rows import Evaluated, Finish
from tests.support.judge_stage import NUM_PROMPTS, evaluated
from tests.support.judging import SKILLS, answer, prompts


def answered(name: str, texts: dict[int, str] | None = None) -> list[Evaluated]:
    """A model's answers; `texts` replaces those of some prompts."""
    return [
        evaluated(n, (texts or {}).get(n, prompt.instruction), answer(name, prompt))
        for n, prompt in enumerate(prompts(NUM_PROMPTS))
    ]


def outputs(model: str, numbers: Sequence[int] = range(NUM_PROMPTS), **left_out: int):
    texts = [f"What is number {n}?" for n in numbers]
    by_prompt = {text: Output(text, "0.9 so", "") for text in texts}
    return ModelOutputs(model, f"/{model}.json", by_prompt, left_out)


def contest(published: Sequence[ModelOutputs] = (), **changes: list[Evaluated]) -> Contest:
    rows = {name: answered(name) for name in SKILLS} | changes
    return contest_of(rows, published, has_reference=bool(published))


def test_models_of_a_run_play_on_the_prompts_that_they_have_answered():
    failed = [
        evaluated(0, "What is number 0?", "no", finish=Finish.ENGINE_ERROR),
        evaluated(1, "What is number 1?", "half", finish=Finish.LENGTH),
        evaluated(2, "What is number 2?", "", finish=Finish.STOP),
        evaluated(3, "What is number 3?", "", finish=Finish.PROMPT_TOO_LONG),
    ]
    found = contest(M_1=failed)
    assert found.contestants.own == list(SKILLS)
    assert found.contestants.reference == "M_0"
    assert [prompt.prompt_id for prompt in found.prompts] == [
        f"prompt-{n:05}" for n in range(NUM_PROMPTS)
    ]
    assert found.answers["M_1"] == {"prompt-00001": "half", "prompt-00002": ""}
    assert len(found.answers["M_2"]) == NUM_PROMPTS
    assert found.num_repeated == 0
    assert found.left_out == {}


def test_prompt_that_stands_twice_counts_once():
    twice = {5: "What is number 2?", 7: "What is number 2?"}
    found = contest(**{name: answered(name, twice) for name in SKILLS})
    assert (len(found.prompts), found.num_repeated) == (NUM_PROMPTS - 2, 2)
    assert found.prompts[2].prompt_id == "prompt-00002"
    assert all(len(given) == NUM_PROMPTS - 2 for given in found.answers.values())


def test_first_published_outputs_are_the_reference_and_missing_prompts_have_no_answer():
    few = outputs("guanaco", range(3, 99), repeated=2)
    found = contest([outputs("davinci"), few, outputs("lima")])
    assert found.contestants.others == ["davinci", "guanaco", "lima"]
    assert found.contestants.reference == "davinci"
    assert len(found.answers["guanaco"]) == NUM_PROMPTS - 3
    assert found.left_out == {"guanaco: repeated": 2}


def test_published_answers_are_found_whatever_spaces_stand_at_the_ends_of_prompts():
    spaced = {2: "What is number 2?\n", 3: " What is number 3?"}
    found = contest([outputs("davinci")], **{name: answered(name, spaced) for name in SKILLS})
    assert len(found.answers["davinci"]) == NUM_PROMPTS


def test_run_without_m_0_plays_against_its_first_model():
    found = contest_of({"base": answered("base")}, [], has_reference=False)
    assert found.contestants.reference == "base"


@pytest.mark.parametrize("name", ["M_1", "davinci"])
def test_outputs_with_the_name_of_another_model_are_refused(name):
    with pytest.raises(UserError, match=rf"/{name}\.json.*'{name}'.*change `generator`"):
        contest([outputs("davinci"), outputs(name)])


def test_outputs_of_two_models_that_would_share_a_folder_are_refused():
    with pytest.raises(UserError, match="same name of a folder: change `generator`"):
        contest([outputs("org/davinci"), outputs("org_davinci")])
