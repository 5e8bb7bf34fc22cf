"""Gauges of runs, whatever their folders are called."""

from __future__ import annotations

import pytest

from humpback_ray.execution.gauges import OF_TRAINING, Gauges


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("run", ["demo", "Läufe 日本", "a b~c=d,e&f"])
def test_gauge_of_a_run_with_any_name_is_exported(run):
    gauges = Gauges(OF_TRAINING, run, "iter-1/model")
    gauges.set({"loss": 1.0})
    tags = next(iter(gauges._gauges.values()))._default_tags
    assert tags["run"].isascii()
    assert tags["run"] == run or "\\xe4" in tags["run"]
