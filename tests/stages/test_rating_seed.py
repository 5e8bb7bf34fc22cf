"""Rating examples in the seed: what they look like, which rows give none, which models see them."""

from __future__ import annotations

import json
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SeedSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Result, Source
from humpback_ray.method import prompts, tokens
from humpback_ray.rows import Direction, DroppedSeed, Origin, SeedPair, TrainingExample
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.examples import SeedExamples, num_repeats
from humpback_ray.stages.rating_seed import RatingSeed
from humpback_ray.stages.seed import Seed
from tests.support.generation import context

KEY = "settings.seed.ratings"


def rated(number: int, score: object = 4, **more: object) -> dict[str, object]:
    return {"instruction": f"Question {number}?", "output": f"Answer {number}.", "score": score,
            **more}  # fmt: skip


def stage(folder: Path, rows: list[dict], *, reasons: bool = False) -> RatingSeed:
    path = folder / "ratings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RatingSeed(
        path="rating-seed", ratings_file=file_source(str(path), "file of ratings", KEY),
        template=prompts.RATING_TEMPLATE.template, grades=(1, 2, 3, 4, 5), reasons=reasons,
    )  # fmt: skip


def run(folder: Path, rows: list[dict], *, reasons: bool = False) -> Result:
    return stage(folder, rows, reasons=reasons).run(context(folder / "rating-seed"))


def examples(folder: Path) -> list[TrainingExample]:
    return tables.read_rows(f"{folder}/rating-seed/rows", TrainingExample)


def test_example_has_the_token_ids_that_the_rater_gets_and_ends_with_the_grade(tmp_path, tokenizer):
    run(tmp_path, [rated(1, 2)])
    (example,) = examples(tmp_path)
    assert (example.tag, example.origin) == ("", Origin.RATING)
    trained = tokens.example_ids(tokenizer, example.prompt, "", example.completion, 4096)
    start, grades = tokens.grade_ids(tokenizer)
    template = string.Template(prompts.RATING_TEMPLATE.template)
    asked = tokens.rating_ids(tokenizer, template, "Question 1?", "Answer 1.", reasoning=False)
    assert trained.ids == [*asked, *start, grades[1], tokenizer.eos_token_id]
    assert trained.num_prompt == len(asked)


def test_rater_that_reasons_learns_the_rationale_before_the_score(tmp_path):
    result = run(tmp_path, [rated(1, 5, rationale=" It is complete. "), rated(2)], reasons=True)
    (example,) = examples(tmp_path)
    assert example.completion == "It is complete.\nScore: 5"
    assert prompts.REASON_THEN_SCORE in example.prompt
    assert result.outcomes == {"kept": 1, "no_rationale": 1}


def test_every_row_that_gives_no_example_has_a_reason(tmp_path):
    rows = [
        rated(1), rated(1, 5), rated(2, 6), rated(3, 3.5), rated(4, None), rated(5, True),
        rated(6, "4"), rated(7, 4.0), rated(8) | {"output": " "}, rated(9) | {"instruction": None},
        rated(10) | {"output": "a\u0000b"},
    ]  # fmt: skip
    result = run(tmp_path, rows)
    assert result.outcomes == {
        "kept": 3, "repeated": 1, "no_grade": 4, "empty_text": 2, "invalid_characters": 1
    }  # fmt: skip
    assert result.figures == {"scores": {"4": 3}}
    dropped = tables.read_rows(f"{tmp_path}/rating-seed/dropped", DroppedSeed)
    assert len(dropped) + len(examples(tmp_path)) == result.num_rows == len(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instruction": "x", "output": "y"}], r"line 1 has the keys 'instruction', 'output': the "
         r"file must hold rows with .*score"),
        ([rated(1, 9)], r"has no rating to train on: 1 no_grade"),
        ([], r"has no rating to train on: no row"),
    ],
)  # fmt: skip
def test_file_without_ratings_is_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path, rows)
    assert "\n" not in str(error.value)
    assert KEY in str(error.value)


def test_ratings_keep_their_origin_in_the_examples_of_forward_models(tmp_path):
    run(tmp_path, [rated(1), rated(2, 1)])
    tables.write_rows(f"{tmp_path}/seed/rows", [SeedPair("s", "Why?", "So.")], SeedPair)
    seed = Seed(path="seed", file=Source("", "s"), settings=SeedSettings(path=""), random_seed=0)
    of_seed = SeedExamples(
        path="examples", seed=seed, direction=Direction.FORWARD, tag="A tag.",
        ratings=stage(tmp_path, [rated(1), rated(2, 1)]),
    )  # fmt: skip
    result = of_seed.run(context(tmp_path / "examples"))
    assert result.outcomes == {"seed": 1, "rating": 2}
    rows = tables.read_rows(f"{tmp_path}/examples/rows", TrainingExample)
    assert {(row.origin, row.tag) for row in rows} == {("seed", "A tag."), ("rating", "")}
    with pytest.raises(AssertionError):
        replace(of_seed, direction=Direction.BACKWARD).run(context(tmp_path / "reversed"))


def test_share_of_ratings_repeats_each_of_them_equally_often(tmp_path):
    run(tmp_path, [rated(1), rated(2, 1)])
    pairs = [SeedPair(str(n), f"Why {n}?", "So.") for n in range(7)]
    tables.write_rows(f"{tmp_path}/seed/rows", pairs, SeedPair)
    of_seed = SeedExamples(
        path="examples", seed=Source(f"{tmp_path}/seed/rows", "seed"),
        direction=Direction.FORWARD, tag="", ratings=stage(tmp_path, [rated(1), rated(2, 1)]),
        rating_share=0.3,
    )  # fmt: skip
    assert of_seed.run(context(tmp_path / "examples")).outcomes == {"seed": 7, "rating": 4}
    rows = tables.read_rows(f"{tmp_path}/examples/rows", TrainingExample)
    times = Counter((row.prompt, row.completion) for row in rows if row.origin is Origin.RATING)
    assert sorted(times.values()) == [2, 2]
    assert len({row.example_id for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("num_others", "share", "number"),
    [(160, None, 1), (160, 0.27, 1), (660, 0.27, 4), (660, 0.01, 1), (40_000, 0.1, 74)],
)
def test_ratings_of_every_model_are_about_the_share_of_its_examples(num_others, share, number):
    assert num_repeats(60, num_others, share) == number


# --- identity -------------------------------------------------------------------------------------


def declared(*overrides: str):
    stages = pipeline.stages_of(load_recipe("tiny", ["settings.corpus.path=/none", *overrides]))
    return {stage.path: stage for stage in stages}


def test_ratings_change_the_forward_models_and_neither_seed_nor_candidates(tmp_path):
    stage(tmp_path, [rated(1)])
    plain = declared()
    more = declared(f"settings.seed.ratings={tmp_path}/ratings.jsonl")
    assert more.keys() - plain.keys() == {"rating-seed"}
    changed = {path for path in plain if plain[path].fingerprint != more[path].fingerprint}
    assert {"forward-0/examples", "forward-0/model", "iter-2/examples", "iter-2/model"} <= changed
    assert not changed & {"seed", "segments", "backward/examples", "backward/model", "candidates"}
    curates = [found for found in more.values() if isinstance(found, Curate)]
    assert {found.ratings for found in curates} == {more["rating-seed"]}


def test_share_of_ratings_changes_the_forward_models_alone(tmp_path):
    stage(tmp_path, [rated(1)])
    ratings = f"settings.seed.ratings={tmp_path}/ratings.jsonl"
    once, often = declared(ratings), declared(ratings, "settings.seed.rating_share=0.2")
    changed = {path for path in once if once[path].fingerprint != often[path].fingerprint}
    assert {"forward-0/examples", "iter-1/examples", "iter-2/examples"} <= changed
    assert not changed & {"seed", "rating-seed", "backward/examples", "candidates"}


def test_share_without_ratings_is_refused():
    with pytest.raises(UserError, match=r"rating_share .* set ratings, or leave it out") as error:
        load_recipe("tiny", ["settings.seed.rating_share=0.2"])
    assert "\n" not in str(error.value)


def test_another_way_of_rating_makes_other_examples(tmp_path):
    stage(tmp_path, [rated(1)])
    setting = f"settings.seed.ratings={tmp_path}/ratings.jsonl"
    ways = ["method=expected", "method=text", "rubric=additive"]
    found = {declared(setting, f"settings.rating.{way}")["rating-seed"].fingerprint for way in ways}
    assert len(found) == len(ways)


def test_ratings_beside_an_endpoint_that_rates_are_refused(tmp_path):
    endpoint = "settings.rating.endpoint={url: http://127.0.0.1:1/v1, model: m}"
    with pytest.raises(UserError, match=r"settings\.seed\.ratings teaches M_t to rate") as error:
        load_recipe("tiny", ["settings.seed.ratings=/none", endpoint])
    assert "\n" not in str(error.value)
