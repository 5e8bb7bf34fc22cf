"""The Grafana dashboard: its form, and that every metric in it is one that Ray or we declare."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
from ray.dashboard.modules.metrics.dashboards import common, default_dashboard_panels
from ray.util import metrics

from humpback_ray.execution import gauges
from humpback_ray.serving import engine_actor

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
# Every selector in our file has braces, so that what stands before them is a metric.
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
LANGUAGE = {"sum", "avg", "max", "count", "by", "rate", "deriv", "or"}


def expressions(panel: dict) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def rays_metrics() -> set[str]:
    """Names in the expressions of Ray's own dashboard."""
    panels = [
        value for _, value in inspect.getmembers(default_dashboard_panels)
        if isinstance(value, list) and value and isinstance(value[0], common.Panel)
    ]  # fmt: skip
    found = [target.expr for group in panels for panel in group for target in panel.targets]
    return {name for expr in found for name, _ in SELECTOR.findall(expr)}


def our_metrics() -> dict[str, tuple[str, ...]]:
    """Names as Prometheus has them, with their tags; Ray adds its prefix, and `_total` to counters.

    tests.stages.test_generation.py reads them from Ray's endpoint.
    """
    of_engines = engine_actor._Metrics({"run": "", "stage": ""})
    declared = [*of_engines._counters.values(), of_engines._requests]
    for figures in (gauges.OF_GENERATION, gauges.OF_TRAINING):
        declared += gauges.Gauges(figures, "", "")._gauges.values()
    return {
        f"ray_{each.info['name']}" + "_total" * isinstance(each, metrics.Counter):
            each.info["tag_keys"]
        for each in declared
    }  # fmt: skip


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_metric_is_declared_by_ray_or_by_us(panel):
    rays, ours = rays_metrics(), our_metrics()
    for expr in expressions(panel):
        selectors = SELECTOR.findall(expr)
        assert selectors
        for name, labels in selectors:
            assert name in rays or name in ours
            if name in ours:
                assert set(ours[name]) == {"run", "stage"}
                assert labels == 'run=~"$run", stage=~"$stage"'
        # Without selectors, ranges and the labels of `by` nothing is left but the language.
        rest = re.sub(r"\[[^\]]*\]|by \([^)]*\)", " ", SELECTOR.sub(" ", expr))
        assert set(re.findall(r"[a-zA-Z_]\w*", rest)) <= LANGUAGE


def test_what_a_user_wants_to_see_is_there():
    shown = {name for panel in PANELS for expr in expressions(panel)
             for name, _ in SELECTOR.findall(expr)}  # fmt: skip
    # Each of the package's metrics has a panel.
    assert our_metrics().keys() <= shown
    assert {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_object_store_memory",
            "autoscaler_active_nodes"} <= shown  # fmt: skip


def test_panels_have_an_id_a_place_and_the_datasource_of_the_variable():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 20
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken
        taken |= cells
    for part in [*PANELS, *(target for panel in PANELS for target in panel["targets"])]:
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource"


def test_run_and_stage_can_be_chosen():
    for name in ("run", "stage"):
        query = VARIABLES[name]["query"]["query"]
        assert query.endswith(f", {name})")
        prefix, names = re.search(r'__name__=~"(\w+)\(([\w|]+)\)"', query).groups()
        assert {prefix + each for each in names.split("|")} <= our_metrics().keys()
