"""Models that do not fit the cluster at hand, said before an engine starts."""

from __future__ import annotations

import pytest

from humpback_ray.cluster import preflight
from humpback_ray.config.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_a_model_larger_than_the_machine_is_refused_with_three_settings():
    recipe = load_recipe("llama-65b", ["placement.engine.device=cpu"])
    with pytest.raises(ValueError, match="the model does not fit") as refused:
        preflight.check_engines_fit(recipe)
    line = str(refused.value)
    assert "\n" not in line
    for setting in ("tensor_parallel_size", "context_length", "fp8"):
        assert setting in line


def test_a_small_model_fits():
    preflight.check_engines_fit(load_recipe("tiny"))


def test_gpus_that_the_cluster_has_not_got_yet_are_not_judged():
    preflight.check_engines_fit(load_recipe("llama-7b"))
