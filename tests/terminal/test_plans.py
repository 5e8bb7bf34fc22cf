"""Tables before a run, printed from typed values."""

from __future__ import annotations

import pytest

from humpback_ray.cluster.findings import CheckVerdict, Finding
from humpback_ray.config.recipe import load_recipe
from humpback_ray.planning.extrapolate import ProbeReport, StageForecast
from humpback_ray.terminal.plans import print_findings, print_probe
from tests.support.terminal_tables import cells


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_printed_findings_are_summed_up_by_verdict(capsys):
    findings = [
        Finding("nodes", "1", "1"),
        Finding("memory", "1 GiB", "2 GiB", CheckVerdict.MISSING, "add [memory]"),
        Finding("memory", "1 GiB", "3 GiB", CheckVerdict.MISSING),
    ]
    print_findings("tiny on this machine", findings)
    output = capsys.readouterr().out
    assert cells(output, "nodes") == ["nodes", "1", "1", "ok", ""]
    assert "add [memory]" in output
    assert output.splitlines()[-3:] == [
        "missing: memory: 1 GiB, wanted: 2 GiB; add [memory]",
        "missing: memory: 1 GiB, wanted: 3 GiB",
        "warning: nothing",
    ]


def test_long_names_in_findings_are_whole_on_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    way_out = "set settings.long_prompts.context_length to at most 512"
    found = Finding("base model", "/a/long/path/of/a/folder", "-", CheckVerdict.MISSING, way_out)
    print_findings("tiny", [found])
    output = capsys.readouterr().out
    assert f"missing: base model: /a/long/path/of/a/folder, wanted: -; {way_out}" in output
    assert "\u2026" not in output


@pytest.mark.parametrize("price", [None, 2.0])
def test_printed_probe_sums_unfinished_stages_and_price(price, capsys):
    stages = [
        StageForecast("seed", 36.0, is_done=True),
        StageForecast("candidates", 600.0, "rows", 100, 12.0, relative_error=0.1),
    ]
    report = ProbeReport(load_recipe("tiny"), 10, 100, 8, stages, ["a note"])
    print_probe(report, price)
    output = capsys.readouterr().out
    money = {"seed": "0.16", "candidates": "8.00", "the whole run": "8.16", "still to do": "8.00"}
    expected = {
        "seed": ["36 s", "", "36 s", "done"],
        "candidates": ["10:00", "100 x 12 s", "30:00", "28:00 to 32:00"],
        "the whole run": ["", "", "30:36", "28:36 to 32:36"],
        "still to do": ["", "", "30:00", "28:00 to 32:00"],
    }
    for name, row in expected.items():
        assert cells(output, name) == [name, *row, *([money[name]] if price else [])]
    assert output.splitlines()[-1] == "a note"
