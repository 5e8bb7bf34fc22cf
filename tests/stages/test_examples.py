"""Which rated pairs a model is finetuned on, from tables on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import tables
from humpback_ray.config.settings import PromptSettings, SelectionSettings
from humpback_ray.execution.stage import Result, Source
from humpback_ray.rows import Origin, RatedPair, SeedPair, TrainingExample
from humpback_ray.stages.curate import Curate
from tests.support.generation import context
from tests.support.rated_pairs import pair

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def curating(folder: Path, settings: SelectionSettings) -> Curate:
    tags = PromptSettings()
    return Curate(
        path="examples", seed=Source(str(folder / "seed"), "seed"),
        rated=Source(str(folder / "rated"), "rated"), settings=settings,
        seed_tag=tags.seed_tag, web_tag=tags.web_tag,
    )  # fmt: skip


def curate(folder: Path, settings: SelectionSettings, safety: Source | None = None) -> Result:
    stage = replace(curating(folder, settings), safety=safety)
    return stage.run(context(folder / "examples"))


def test_only_the_best_candidate_of_a_segment_is_selected(tmp_path):
    pairs = [pair(1, 0, 4.6), pair(1, 1, 4.9), pair(1, 2, None)]
    pairs += [pair(2, 0, 5.0), pair(2, 1, 5.0), pair(3, 0, 4.4), pair(3, 1, 1.0), pair(4, 0, None)]
    # Candidates of one segment lie in different files, as different engines write them.
    for number, row in enumerate(pairs):
        tables.write_rows(str(tmp_path / "rated"), [row], RatedPair, name=f"part-{number}")
    seeds = [SeedPair("a", "Why?", "Because.")]
    tables.write_rows(str(tmp_path / "seed"), seeds, SeedPair)
    result = curate(tmp_path, SelectionSettings(method="threshold", k=4.5))
    rows = tables.read_rows(str(tmp_path / "examples" / "rows"), TrainingExample)
    web = {row.example_id: row for row in rows if row.origin is Origin.WEB}
    assert web.keys() == {"web-s1-1", "web-s2-0"}
    assert web["web-s1-1"].prompt == "x of s1-1"
    assert web["web-s1-1"].tag == PromptSettings().web_tag
    assert result.outcomes == {"seed": 1, "web": 2}
    assert result.figures["num_scored"] == 6
    assert result.figures["num_segments"] == 3
    assert result.figures["lowest_selected_score"] == 4.9


def test_safety_pairs_stand_beside_the_seeds_in_the_examples_of_every_model(tmp_path):
    tables.write_rows(str(tmp_path / "rated"), [pair(1, 0, 4.6)], RatedPair)
    tables.write_rows(str(tmp_path / "seed"), [SeedPair("a", "Why?", "Because.")], SeedPair)
    refusals = [SeedPair(name, "How do I harm?", "I will not help.") for name in ("a", "b")]
    tables.write_rows(str(tmp_path / "safety"), refusals, SeedPair)
    result = curate(tmp_path, SelectionSettings(), Source(str(tmp_path / "safety"), "safety"))
    assert result.outcomes == {"seed": 1, "safety": 2, "web": 1}
    rows = tables.read_rows(str(tmp_path / "examples" / "rows"), TrainingExample)
    assert {
        row.example_id: row.tag for row in rows if row.origin is Origin.SAFETY
    } == dict.fromkeys(("safety-a", "safety-b"), PromptSettings().seed_tag)


def test_ratings_keep_their_share_beside_the_selected_pairs(tmp_path):
    tables.write_rows(str(tmp_path / "rated"), [pair(n, 0, 4.6) for n in range(5)], RatedPair)
    tables.write_rows(str(tmp_path / "seed"), [SeedPair("a", "Why?", "Because.")], SeedPair)
    rating = TrainingExample("rating-r", "Grade this.", "", "Score: 2", Origin.RATING)
    tables.write_rows(str(tmp_path / "ratings"), [rating], TrainingExample)
    stage = replace(
        curating(tmp_path, SelectionSettings()),
        ratings=Source(str(tmp_path / "ratings"), "ratings"), rating_share=0.25,
    )  # fmt: skip
    result = stage.run(context(tmp_path / "examples"))
    assert result.outcomes == {"web": 5, "seed": 1, "rating": 2}


def test_empty_selection_is_refused_in_one_line_with_the_way_out(tmp_path):
    tables.write_rows(str(tmp_path / "rated"), [pair(1, 0, 2.0)], RatedPair)
    tables.write_rows(str(tmp_path / "seed"), [SeedPair("a", "Why?", "Because.")], SeedPair)
    with pytest.raises(ValueError, match=r"none of the 1 rated pairs .* lower settings.selection"):
        curate(tmp_path, SelectionSettings())


def test_examples_without_the_seed_and_without_curation_are_a_draw_of_web_pairs(tmp_path):
    tables.write_rows(str(tmp_path / "rated"), [pair(n, 0, 1.0 + n) for n in range(4)], RatedPair)
    tables.write_rows(str(tmp_path / "seed"), [SeedPair("a", "Why?", "Because.")], SeedPair)
    settings = SelectionSettings(method="all", max_pairs=3, with_seed=False)
    result = curate(tmp_path, settings)
    assert result.outcomes == {"web": 3}
    assert result.figures["num_selected"] == 3
