"""Evaluation prompts in another format are known before the first stage."""

from __future__ import annotations

import pytest

from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.pipeline import stages_of
from humpback_ray.stages.evaluate import prompts_source, read_prompts

LINE = '{"dataset": "x", "instruction": "Name a fruit."}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"{LINE}\n{LINE}\n", "are no JSON (Extra data: line 2"),
        ("instruction\nName a fruit.\n", "are no JSON"),
        ("", "are no JSON"),
        (LINE, "are no list"),
        (f'[{LINE}, {{"prompt": "Name a tree."}}]', "entry 1 has no text as instruction"),
        ('[{"instruction": 7}]', "entry 0 has no text as instruction"),
        ('["Name a fruit."]', "entry 0 has no text as instruction"),
    ],
)
def test_prompts_in_another_format_are_a_problem_of_the_first_stages(tmp_path, content, reason):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    source = prompts_source(str(path))
    assert source.identity is None
    assert str(path) in source.problem
    assert reason in source.problem
    assert "set settings.evaluation.prompts to a JSON list" in source.problem
    assert "\n" not in source.problem
    recipe = load_recipe("tiny", [f"settings.evaluation.prompts={path}"])
    assert source.problem in {line for stage in stages_of(recipe) for line in stage.problems}
    with pytest.raises(UserError, match=r"set settings\.evaluation\.prompts"):
        read_prompts(str(path))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_in_alpacaevals_format_are_read(tmp_path, mark):
    path = tmp_path / "prompts.json"
    path.write_text(f'{mark}[{LINE}, {{"instruction": "Name a tree.", "output": "-"}}]', "utf-8")
    assert read_prompts(str(path)) == [
        {"dataset": "x", "instruction": "Name a fruit."},
        {"dataset": "", "instruction": "Name a tree."},
    ]
    source = prompts_source(str(path))
    assert source.identity
    assert not source.problem
