"""Candidates whose instructions have words of evaluation prompts, on a Ray cluster."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.stage import Context
from humpback_ray.pipeline import stages_of
from humpback_ray.rows import Candidate, ContaminatedCandidate, Finish
from humpback_ray.stages.decontaminate import Decontaminate
from humpback_ray.stages.distinct import Distinct
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.segments import Segments

QUESTION = "Explain to a child in simple words why the sky is blue."


def declared(*overrides):
    return stages_of(load_recipe("tiny", ["settings.corpus.path=/none", *overrides]))


def of(kind, stages):
    return [stage for stage in stages if isinstance(stage, kind)]


def prompts_file(tmp_path, name, *instructions):
    rows = [{"dataset": "own", "instruction": text} for text in instructions]
    (tmp_path / name).write_text(json.dumps(rows))
    return str(tmp_path / name)


def test_pipeline_decontaminates_only_where_the_recipe_asks_for_it():
    assert not of(Decontaminate, declared())
    stages = declared("settings.decontamination={}", "settings.distinct_instructions={}")
    [clean], [distinct] = of(Decontaminate, stages), of(Distinct, stages)
    assert distinct.candidates is clean
    assert all(stage.candidates is distinct for stage in of(Rate, stages))


def test_segments_depend_on_the_prompts_only_where_these_are_looked_for(tmp_path):
    one = prompts_file(tmp_path, "one.json", QUESTION)
    same = prompts_file(tmp_path, "same.json", QUESTION)
    other = prompts_file(tmp_path, "other.json", "How do I boil an egg?")

    def identity(*overrides):
        [segments] = of(Segments, declared(*overrides))
        return segments.fingerprint

    evaluated, clean = "settings.evaluation.prompts=", "settings.decontamination={}"
    assert identity(evaluated + one) == identity(evaluated + other)
    looked_for = identity(clean, evaluated + one)
    assert looked_for != identity(evaluated + one)
    assert looked_for != identity(clean, evaluated + other)
    sampled = "settings.evaluation.sampling.max_tokens=7"
    assert looked_for == identity(clean, evaluated + same, sampled)
    assert looked_for == identity(f"settings.decontamination.prompts={one}", evaluated + other)
    assert looked_for != identity("settings.decontamination.ngram=9", evaluated + one)


def test_prompts_that_are_none_are_named_with_their_setting(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    stages = declared(f"settings.decontamination.prompts={tmp_path}/bad.json")
    [line] = [line for line in of(Decontaminate, stages)[0].problems if "bad.json" in line]
    assert "set settings.decontamination.prompts to" in line


@pytest.mark.usefixtures("ray_cluster")
def test_contaminated_instructions_go_with_their_prompt(tmp_path):
    prompts = prompts_file(tmp_path, "prompts.json", "How do I boil an egg?", QUESTION)
    texts = [QUESTION.replace("Explain", "Tell me, and"), "how do I boil an EGG", "",
             "How do I boil an egg in a desert?", QUESTION]  # fmt: skip
    finishes = [Finish.STOP] * 4 + [Finish.LENGTH]
    rows = [
        Candidate(f"s{n}-0", f"s{n}", text, f"answer {n}", finish, False, 1, 0, 1)
        for n, (text, finish) in enumerate(zip(texts, finishes, strict=True))
    ]
    for number, row in enumerate(rows):
        tables.write_rows(str(tmp_path / "candidates/rows"), [row], Candidate, f"part-{number}")
    [stage] = of(Decontaminate, declared(f"settings.decontamination.prompts={prompts}"))
    context = Context(str(tmp_path), stage.path, Placement(),
                      StageProgress(Console(record=True), stage.path),
                      Metrics(str(tmp_path / "metrics")))  # fmt: skip
    result = stage.run(context)
    assert result.outcomes == {"kept": 3, "contaminated": 2}
    kept = tables.read_rows(context.path("rows"), Candidate)
    assert kept == [rows[2], rows[3], rows[4]]
    dropped = tables.read_rows(context.path("dropped"), ContaminatedCandidate)
    assert [(row.candidate_id, row.prompt_id, row.shared_ngram) for row in dropped] == [
        ("s0-0", "prompt-00001", "to a child in simple words why the"),
        ("s1-0", "prompt-00000", "how do i boil an egg"),
    ]
