"""The estimate of benchmarks, which no one has counted yet."""

from __future__ import annotations

import pytest

from humpback_ray import pipeline
from humpback_ray.config.benchmarks import BenchmarkSettings
from humpback_ray.config.recipe import load_recipe
from humpback_ray.planning.benchmark_work import benchmark_work
from humpback_ray.planning.estimate import StageEstimate, estimate_stages
from humpback_ray.sizing.hardware import parse_hardware


def work(*tasks: str, limit: int | None = None):
    return benchmark_work(BenchmarkSettings(tasks=tasks, limit=limit))


def estimates(*overrides: str) -> dict[str, StageEstimate]:
    recipe = load_recipe("llama-7b", ["settings.evaluation.benchmarks={}", *overrides])
    found = estimate_stages(recipe, pipeline.stages_of(recipe), {}, parse_hardware("8xH100"))
    return {stage.path: stage for stage in found if stage.path.startswith("benchmarks/")}


def test_every_answer_of_every_question_is_a_prompt():
    assert work("piqa").num_rows == 2 * 1838
    assert work("piqa", "arc_easy", "piqa").num_rows == 2 * 1838 + 4 * 2376
    assert work("my_own_task") == work("piqa")


def test_limit_cuts_each_of_the_57_tasks_of_mmlu():
    assert work("mmlu", limit=10).num_rows == 4 * 570
    assert work("mmlu", limit=10_000) == work("mmlu")


def test_tokens_are_the_mean_over_all_prompts():
    both = work("openbookqa", "mmlu")
    total = 4 * (500 * 25 + 14042 * 150)
    assert both.num_rows * both.prompt_tokens == pytest.approx(total)


def test_estimate_has_a_process_on_one_engine_for_each_model():
    found = estimates()
    assert list(found) == [f"benchmarks/{name}" for name in ("base", "M_0", "M_1", "M_2")]
    assert {stage.layout for stage in found.values()} == {"1 engines x TP1"}
    of_one_task = estimates("settings.evaluation.benchmarks.tasks=[piqa]")
    assert 0 < of_one_task["benchmarks/base"].hours < found["benchmarks/base"].hours


def test_estimate_of_the_hf_backend_says_that_there_is_none():
    found = estimates("placement.benchmarks.backend=hf")["benchmarks/M_2"]
    assert found.fits.startswith("not estimated")
    assert found.hours == 0
