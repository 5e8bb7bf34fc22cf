"""Evaluation prompts in another format are known before the first stage."""

from __future__ import annotations

import pytest

from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.pipeline import stages_of
from humpback_ray.stages.evaluate import Evaluate, prompts_source, read_prompts
from tests.support.hub_datasets import write_dataset

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
        read_prompts([str(path)])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_in_alpacaevals_format_are_read(tmp_path, mark):
    path = tmp_path / "prompts.json"
    path.write_text(f'{mark}[{LINE}, {{"instruction": "Name a tree.", "output": "-"}}]', "utf-8")
    assert read_prompts([str(path)]) == [
        {"dataset": "x", "instruction": "Name a fruit."},
        {"dataset": "", "instruction": "Name a tree."},
    ]
    source = prompts_source(str(path))
    assert source.identity
    assert not source.problem


def test_prompts_of_a_dataset_are_read_by_their_column(tmp_path):
    rows = [
        {"dataset": "x", "prompt": "Name a fruit."},
        {"dataset": None, "prompt": "Name a tree."},
    ]
    location = write_dataset(tmp_path / "set", "parquet", rows) + "&column=prompt"
    assert read_prompts([location]) == [
        {"dataset": "x", "instruction": "Name a fruit."},
        {"dataset": "set", "instruction": "Name a tree."},
    ]
    assert prompts_source(location).identity


def test_prompts_of_several_places_follow_each_other(tmp_path):
    (tmp_path / "one.json").write_text(f"[{LINE}]")
    (tmp_path / "two.json").write_text('[{"instruction": "Name a tree."}]')
    rows = [{"prompt": "Name a river."}]
    location = write_dataset(tmp_path / "set", "parquet", rows) + "&column=prompt"
    places = (str(tmp_path / "two.json"), location, str(tmp_path / "one.json"))
    source = prompts_source(places)
    assert [row["instruction"] for row in read_prompts(source.places)] == [
        "Name a tree.", "Name a river.", "Name a fruit.",
    ]  # fmt: skip
    assert source.identity
    assert source.identity != prompts_source(places[::-1]).identity
    broken = prompts_source((*places, str(tmp_path / "none.json")))
    assert broken.identity is None
    assert "none.json" in broken.problem


def test_prompts_of_a_list_reach_the_stages_and_one_is_as_before(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(f"[{LINE}]")
    (tmp_path / "two.json").write_text('[{"instruction": "Name a tree."}]')

    def declared(prompts: str) -> Evaluate:
        recipe = load_recipe("tiny", [f"settings.evaluation.prompts={prompts}"])
        return next(stage for stage in stages_of(recipe) if isinstance(stage, Evaluate))

    several = declared(f"[{path}, {tmp_path}/two.json]")
    assert several.prompts.places == (str(path), f"{tmp_path}/two.json")
    several.check(load_recipe("tiny").placement)
    assert declared(f"[{path}]").fingerprint == declared(str(path)).fingerprint
    assert several.fingerprint != declared(str(path)).fingerprint


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("dataset://no/such", r"Couldn't reach .*settings\.evaluation\.prompts"),
        ("dataset://{}/set", "no column 'instruction'; it has prompt, number"),
        ("dataset://{}/set?split=test", r"Available splits: \['train'\]"),
    ],
)
def test_dataset_of_prompts_that_cannot_be_used_is_refused_by_the_check(tmp_path, location, reason):
    write_dataset(tmp_path / "set", "parquet", [{"prompt": "Name a fruit.", "number": 7}])
    location = location.format(tmp_path)
    recipe = load_recipe("tiny", [f"settings.evaluation.prompts={location}"])
    stage = next(stage for stage in stages_of(recipe) if isinstance(stage, Evaluate))
    assert not [line for line in stage.problems if "prompts" in line]
    with pytest.raises(UserError, match=reason):
        stage.check(recipe.placement)


def test_value_that_is_no_text_is_refused_with_its_row(tmp_path):
    location = write_dataset(tmp_path / "set", "json", [{"prompt": "x", "number": 7}])
    with pytest.raises(UserError, match="row 0 has no text as number"):
        read_prompts([f"{location}&column=number"])
