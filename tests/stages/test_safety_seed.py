"""The second seed file: how many of its pairs are drawn, which ones, and which models see them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SafetySeedSettings, SeedSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Result, Source
from humpback_ray.rows import Direction, DroppedSeed, Origin, SeedPair, TrainingExample
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.examples import SeedExamples
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.safety_seed import SafetySeed
from humpback_ray.stages.seed import Seed
from tests.support.generation import context

NUM_SEED = 12


def messages(number: int, question: str | None = None, lang: str = "en") -> list[dict]:
    asked = {"message_id": f"q{number}", "parent_id": None, "role": "prompter", "lang": lang,
             "text": question or f"A harmful request {number}?", "rank": None}  # fmt: skip
    reply = {"message_id": f"a{number}", "parent_id": f"q{number}", "role": "assistant",
             "lang": lang, "text": f"I will not help with {number}.", "rank": 0}  # fmt: skip
    return [asked, reply]


def write(path: Path, rows: list[dict]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file_source(str(path), "safety seed file", "settings.seed.safety.path")


def seeds(folder: Path) -> None:
    pairs = [SeedPair(f"s{n}", f"Question {n}?", f"Answer {n}.") for n in range(NUM_SEED)]
    held_out = [SeedPair("h", "Held out?", "I will not help with 1.")]
    tables.write_rows(f"{folder}/seed/rows", pairs, SeedPair)
    tables.write_rows(f"{folder}/seed/held_out", held_out, SeedPair)


def seed_stage() -> Seed:
    return Seed(path="seed", file=Source("", "seed"), settings=SeedSettings(path=""), random_seed=0)


def safety(folder: Path, rows: list[dict], share: float | None) -> Result:
    """The stage's result over a seed of 12 pairs, in `folder`/safety-seed."""
    seeds(folder)
    stage = SafetySeed(
        path="safety-seed", safety_file=write(folder / "safety.jsonl", rows),
        seed=seed_stage(), language="en", random_seed=0,
        settings=SafetySeedSettings(path="safety.jsonl", share=share),
    )  # fmt: skip
    return stage.run(context(folder / "safety-seed"))


def kept(folder: Path) -> list[str]:
    return [row.pair_id for row in tables.read_rows(f"{folder}/safety-seed/rows", SeedPair)]


def many(numbers=range(2, 20)) -> list[dict]:
    return [row for number in numbers for row in messages(number)]


@pytest.mark.parametrize(("share", "number"), [(0.25, 4), (0.5, 12), (0.001, 1), (None, 18)])
def test_safety_pairs_are_the_share_of_all_human_pairs(tmp_path, share, number):
    result = safety(tmp_path, many(), share)
    assert result.outcomes["kept"] == len(kept(tmp_path)) == number
    assert result.outcomes.get("surplus", 0) == 18 - number
    assert result.figures["share"] == pytest.approx(number / (number + NUM_SEED), abs=1e-4)


def test_draw_depends_on_no_order_of_the_file(tmp_path):
    for name, numbers in (("one", range(2, 20)), ("other", range(19, 1, -1))):
        (tmp_path / name).mkdir()
        safety(tmp_path / name, many(numbers), 0.25)
    assert kept(tmp_path / "one") == kept(tmp_path / "other")
    assert kept(tmp_path / "one") != [f"q{n}" for n in range(2, 6)]


def test_every_message_that_gives_no_pair_has_a_reason(tmp_path):
    in_seed = [*messages(30, "Question 3?"), *messages(31, "Question 4?")]
    in_seed[1]["text"] = " ANSWER  3. "
    rows = [*messages(1), *in_seed, *messages(32, lang="de"), *many(range(2, 6))]
    result = safety(tmp_path, rows, 0.2)
    assert result.outcomes == {
        "kept": 3, "held_out_text": 1, "in_seed": 1, "other_language": 1, "surplus": 2
    }  # fmt: skip
    dropped = tables.read_rows(f"{tmp_path}/safety-seed/dropped", DroppedSeed)
    reasons = {row.message_id: row.outcome for row in dropped}
    assert reasons["q1"] == "held_out_text"
    assert reasons["q30"] == "in_seed"
    assert reasons["q32"] == "other_language"
    assert len(dropped) + len(kept(tmp_path)) == result.num_rows == 8


@pytest.mark.parametrize(
    ("rows", "share", "message"),
    [
        (many(range(2, 5)), 0.5, r"share=0\.5 needs 12 pairs beside the seed's 12, and .*"
         r"safety\.jsonl has 3: add pairs, lower the share to 0\.2, or"),
        (messages(2, lang="de"), None, r"has no pair to train on: .*language 'en'"),
        ([{"instruction": "x"}], None, r"the keys 'instruction'.*\(settings\.seed\.safety\.path\)"),
    ],
)  # fmt: skip
def test_safety_file_that_cannot_give_its_share_is_refused_in_one_line(
    tmp_path, rows, share, message
):
    with pytest.raises(UserError, match=message) as error:
        safety(tmp_path, rows, share)
    assert "\n" not in str(error.value)


def test_lower_share_that_the_message_names_can_be_reached(tmp_path):
    assert safety(tmp_path, many(range(2, 5)), 0.2).outcomes["kept"] == 3


# --- examples -------------------------------------------------------------------------------------


def test_safety_pairs_keep_their_origin_in_the_examples_of_forward_models(tmp_path):
    safety(tmp_path, many(), 0.25)
    stage = SeedExamples(
        path="examples", seed=seed_stage(), direction=Direction.FORWARD, tag="A tag.",
        safety=replace(seed_stage(), path="safety-seed"),
    )  # fmt: skip
    result = stage.run(context(tmp_path / "examples"))
    assert result.outcomes == {"seed": NUM_SEED, "safety": 4}
    rows = tables.read_rows(f"{tmp_path}/examples/rows", TrainingExample)
    of_safety = [row for row in rows if row.origin is Origin.SAFETY]
    assert [row.example_id for row in of_safety] == [f"safety-{name}" for name in kept(tmp_path)]
    assert {row.tag for row in rows} == {"A tag."}
    assert of_safety[0].completion.startswith("I will not help")
    with pytest.raises(AssertionError):
        replace(stage, direction=Direction.BACKWARD).run(context(tmp_path / "reversed"))


# --- identity -------------------------------------------------------------------------------------

NO_CORPUS = "settings.corpus.path=/none"


def declared(*overrides: str):
    stages = pipeline.stages_of(load_recipe("tiny", [NO_CORPUS, *overrides]))
    return {stage.path: stage for stage in stages}


def test_safety_file_changes_the_forward_models_and_neither_seed_nor_candidates(tmp_path):
    write(tmp_path / "safety.jsonl", many())
    plain = declared()
    more = declared(f"settings.seed.safety={{path: {tmp_path}/safety.jsonl, share: 0.1}}")
    assert more.keys() - plain.keys() == {"safety-seed"}
    changed = {path for path in plain if plain[path].fingerprint != more[path].fingerprint}
    assert {"forward-0/examples", "forward-0/model", "iter-2/examples", "iter-2/model"} <= changed
    assert not changed & {"seed", "segments", "backward/examples", "backward/model", "candidates"}
    assert all(more[path].safety is more["safety-seed"] for path in more
               if isinstance(more[path], Curate))  # fmt: skip
    cards = [dict(_sources(more[path])) for path in ("forward-0/model", "backward/model")]
    assert [card.get("safety seed") for card in cards] == ["safety.jsonl", None]


def _sources(stage: Finetune):
    from humpback_ray.stages.finetune import _sources_behind

    return _sources_behind(stage.examples)


def test_another_share_or_content_is_another_draw_and_another_place_is_not(tmp_path):
    write(tmp_path / "a.jsonl", many())
    write(tmp_path / "b.jsonl", many())
    write(tmp_path / "c.jsonl", many(range(2, 21)))

    def of(name: str, share: float) -> str:
        value = f"{{path: {tmp_path}/{name}.jsonl, share: {share}}}"
        return declared(f"settings.seed.safety={value}")["safety-seed"].fingerprint

    assert of("a", 0.1) == of("b", 0.1)
    assert len({of("a", 0.1), of("a", 0.2), of("c", 0.1)}) == 3


def test_missing_safety_file_is_a_problem_of_the_forward_models_alone(tmp_path):
    found = declared(f"settings.seed.safety={{path: {tmp_path}/none.jsonl}}")
    (problem,) = found["safety-seed"].problems
    assert "settings.seed.safety.path" in problem
    assert problem in found["iter-2/model"].problems
    assert problem not in found["backward/model"].problems


@pytest.mark.parametrize("value", ["{share: 0.1}", "{path: x, share: 1}", "{path: x, shar: 0.1}"])
def test_mistake_in_the_safety_settings_is_refused_in_one_line(value):
    with pytest.raises(UserError, match=r"settings\.seed\.safety") as error:
        load_recipe("tiny", [f"settings.seed.safety={value}"])
    assert "\n" not in str(error.value)
