"""Models that do not fit the cluster at hand, said before an engine starts."""

from __future__ import annotations

import pytest

from humpback_ray.cluster import preflight
from humpback_ray.config.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_engines_fit_refuses_a_model_larger_than_the_machine():
    recipe = load_recipe("llama-65b", ["placement.engine.device=cpu"])
    with pytest.raises(ValueError, match="the model does not fit") as refused:
        preflight.check_engines_fit(recipe)
    line = str(refused.value)
    assert "\n" not in line
    for setting in ("tensor_parallel_size", "context_length", "fp8"):
        assert setting in line


def test_engines_fit_accepts_a_small_model():
    preflight.check_engines_fit(load_recipe("tiny"))


def test_engines_fit_ignores_gpus_that_the_cluster_has_not_yet():
    preflight.check_engines_fit(load_recipe("llama-7b"))
