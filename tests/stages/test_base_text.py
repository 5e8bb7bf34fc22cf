"""A small base model's own text to pretrain on."""

from __future__ import annotations

import json

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Source
from humpback_ray.rows import PlainText
from humpback_ray.stages.base import BaseText
from tests.support.generation import context


def stages(*overrides: str) -> dict:
    declared = pipeline.stages_of(load_recipe("tiny", ["settings.corpus.path=/none", *overrides]))
    return {stage.path: stage for stage in declared}


def test_base_text_takes_documents_whole_and_counts_what_is_no_plain_text(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"text": "One.\n\nTwo."}) + "\n" + '{"other": 1}\n')
    (folder / "b.txt").write_text("# Three, which is no header here")
    (folder / "c.html").write_text("<h1>Four</h1>")
    stage = BaseText(path="base/text", corpus=Source(str(folder), "texts"))
    result = stage.run(context(tmp_path / "base"))
    rows = tables.read_rows(str(tmp_path / "base" / "rows"), PlainText)
    assert {row.text for row in rows} == {"One.\n\nTwo.", "# Three, which is no header here"}
    assert result.outcomes == {"read": 2, "no_plain_text": 2}


def test_base_text_of_several_places_has_the_texts_of_all(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"Text {name}.")
    own = stages(f"settings.base.text=[{tmp_path}/one, {tmp_path}/two]")["base/text"]
    own.check(load_recipe("tiny").placement)
    own.run(context(tmp_path / "base"))
    rows = tables.read_rows(str(tmp_path / "base" / "rows"), PlainText)
    assert {row.text for row in rows} == {"Text one.", "Text two."}


def test_base_text_without_plain_text_is_refused_with_the_setting(tmp_path):
    (tmp_path / "c.html").write_text("<h1>Four</h1>")
    stage = BaseText(path="base/text", corpus=Source(str(tmp_path), "texts"))
    with pytest.raises(UserError, match=r"no plain text in .*settings\.base\.text"):
        stage.run(context(tmp_path / "base"))


def test_scratch_base_with_a_text_is_trained_on_it_and_not_on_the_segments(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    plain, own = stages(), stages(f"settings.base.text={tmp_path}")
    assert set(own) - set(plain) == {"base/text"}
    for path in ("base/initial", "base/examples"):
        assert own[path].segments is own["base/text"]
        assert plain[path].segments is plain["segments"]
    assert own["candidates"].segments is own["segments"]


def test_scratch_base_with_a_missing_text_names_the_setting(tmp_path):
    own = stages(f"settings.base.text={tmp_path}/none")
    assert "settings.base.text" in own["base/model"].problems[0]
