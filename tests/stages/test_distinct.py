"""Candidates whose instructions repeat others, on a Ray cluster."""

from __future__ import annotations

import pytest
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.duplicates import InstructionDuplicateSettings
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.stage import Context
from humpback_ray.method.filters import segment_id
from humpback_ray.pipeline import stages_of
from humpback_ray.rows import Candidate, DroppedCandidate, Finish, InstructionOutcome
from humpback_ray.stages.distinct import Distinct
from humpback_ray.stages.rate import Rate

QUESTION = "Explain to a child in simple words why the sky is blue on a clear day in summer."


def declared(*overrides):
    return stages_of(load_recipe("tiny", ["settings.corpus.path=/none", *overrides]))


def test_pipeline_rates_distinct_candidates_only_where_the_recipe_asks_for_it():
    usual = declared()
    assert not [stage for stage in usual if isinstance(stage, Distinct)]
    stages = declared("settings.distinct_instructions={}")
    (distinct,) = [stage for stage in stages if isinstance(stage, Distinct)]
    assert distinct.settings.ngram == 2
    assert all(stage.candidates is distinct for stage in stages if isinstance(stage, Rate))
    unchanged = {stage.path: stage.fingerprint for stage in usual if stage.path == "candidates"}
    assert unchanged == {distinct.candidates.path: distinct.candidates.fingerprint}


@pytest.mark.usefixtures("ray_cluster")
def test_repeated_instructions_go_and_candidates_without_one_stay(tmp_path):
    texts = [QUESTION, QUESTION.replace("summer", "winter"), "How do I boil an egg?",
             QUESTION.upper(), "", "Explain to a child in simple words why the"]  # fmt: skip
    finishes = [Finish.STOP] * 4 + [Finish.ENGINE_ERROR, Finish.LENGTH]
    rows = [
        Candidate(f"s{n}-0", f"s{n}", text, f"answer {n}", finish, False, 1, 0, 1)
        for n, (text, finish) in enumerate(zip(texts, finishes, strict=True))
    ]
    tables.write_rows(str(tmp_path / "candidates/rows"), rows, Candidate)
    (stage,) = [
        stage for stage in declared("settings.distinct_instructions={}")
        if isinstance(stage, Distinct)
    ]  # fmt: skip
    console = Console(record=True)
    context = Context(str(tmp_path), stage.path, Placement(), StageProgress(console, "distinct"),
                      Metrics(str(tmp_path / "metrics")))  # fmt: skip
    result = stage.run(context)
    kept = tables.read_rows(context.path("rows"), Candidate)
    dropped = tables.read_rows(context.path("dropped"), DroppedCandidate)
    first, second = sorted(texts[:2], key=segment_id)  # the smaller hash stays
    assert {row.candidate_id for row in kept} == {
        f"s{texts.index(first)}-0", "s2-0", "s4-0", "s5-0",
    }  # fmt: skip
    assert result.outcomes == {"kept": 4, "exact_duplicate": 1, "near_duplicate": 1}
    assert result.num_rows == 6
    near = next(row for row in dropped if row.outcome is InstructionOutcome.NEAR_DUPLICATE)
    assert near.instruction == second
    assert near.duplicate_of == segment_id(first)
    assert near.jaccard > InstructionDuplicateSettings().jaccard
    exact = next(row for row in dropped if row.outcome is InstructionOutcome.EXACT_DUPLICATE)
    assert exact.candidate_id == "s3-0"
