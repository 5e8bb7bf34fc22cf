"""`humpback annotate` and `humpback votes` on the command line: what they say, and mistakes."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from humpback_ray.cli import app
from humpback_ray.evaluation.people.study import load_all
from humpback_ray.report.console import Console
from humpback_ray.terminal import output
from tests.support.people import make_run

RUNNER = CliRunner()


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setattr(output, "console", Console(width=160))


def call(*arguments: object):
    return RUNNER.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def mistake(result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("error: ")


def votes_in_a_file(page, choice: str = "left") -> str:
    """The votes that the page of a file would save after one choice for every item."""
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)[1]
    sheet = json.loads(data)
    lines = [
        {"study": sheet["study"], "rater": sheet["rater"], "vote_id": f"{n:032x}",
         "item": item["id"], "choice": choice, "seconds": 9.5}
        for n, item in enumerate(sheet["items"])
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_pages_come_back_as_votes_with_a_summary_beside_the_papers_figures(run, tmp_path):
    made = call("annotate", run, "--models", "M_2,M_1", "--file", tmp_path / "page.html")
    assert made.exit_code == 0, made.output
    assert "12 items for 1 raters, 19 each with 6 screening items" in made.stdout
    assert f"humpback votes {run} --add" in made.stdout
    back = tmp_path / "back.jsonl"
    back.write_text(votes_in_a_file((tmp_path / "page.html").read_text()))
    result = call("votes", run, "--add", back, "--export", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "19 lines: 19 added, 0 known before" in result.stderr
    assert re.search(r"M_2 : M_1 +│ 12 +│ 12 +│ 50\.0 \[", result.stdout)
    assert re.search(r"Humpback 65B : LIMA 65B +│ +│ +│ 55\.6 +│ 6\.7 +│ 37\.8", result.stdout)
    assert "3 of 6 (failed)" in result.stdout  # always the left one
    assert (tmp_path / "out" / "M_2-M_1" / "annotations.json").exists()


def test_same_command_draws_the_same_study_and_another_seed_another(run, tmp_path):
    for seed in (0, 0, 1):
        call("annotate", run, "--models", "M_2,M_1", "--seed", seed, "--file", tmp_path / "p.html")
    assert len(load_all(str(run / "people"))) == 2


def test_results_as_json_are_json_alone(run, tmp_path):
    call("annotate", run, "--models", "M_2,M_1", "--file", tmp_path / "page.html")
    back = tmp_path / "back.jsonl"
    back.write_text(votes_in_a_file((tmp_path / "page.html").read_text(), "tie"))
    result = call("votes", run, "--add", back, "--json")
    (pair,) = json.loads(result.stdout)["pairs"]
    assert (pair["tie"]["value"], pair["win_rate"]["value"], pair["judge"]) == (1.0, 0.5, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "M_2"), "two models or more"),
        ((), "two models or more"),
        (("--models", "M_2,M_7"), "name one of M_1, M_2"),
        (("--models", "M_2,M_1", "--raters", "ann,ann"), "--raters ann,ann"),
        (("--models", "M_2,M_1", "--mode", "grades"), "give one of pairs, labels"),
        (("--models", "M_2,M_1", "--mode", "labels"), "leave --models out"),
        (("--mode", "labels"), "rated iterations are (none)"),
        (("--models", "M_2,M_1", "--screening", "/no/file"), "no screening file /no/file"),
        (("--models", "M_2,M_1", "--file", "page.pdf"), "ends in .html"),
        (("--models", "M_2,M_1", "--file", "/dev/null/page.html"), "cannot be read or written"),
        (("--models", "M_2,M_1", "--into", "s3://bucket/people"), "cannot be appended"),
        (("--models", "M_2,M_1", "--into", "/dev/null/x"), "/dev/null/x cannot be"),
        (("--models", "M_2,M_1", "--host", "no.such.host.invalid"), "cannot listen"),
    ],
)
def test_mistakes_are_one_line_each(run, arguments, message):
    assert message in mistake(call("annotate", run, *arguments))


def test_votes_of_a_run_without_any_are_a_user_error(run):
    assert "humpback annotate" in mistake(call("votes", run))
