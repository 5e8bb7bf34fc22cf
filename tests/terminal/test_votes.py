"""Votes of people in the terminal: figures without an interval, and no figure."""

from __future__ import annotations

import pytest

from humpback_ray.evaluation.agreement import Pace
from humpback_ray.evaluation.estimates import Estimate, share_of
from humpback_ray.evaluation.people.results import PairResult, PeopleResults, RaterResult
from humpback_ray.terminal import output
from humpback_ray.terminal.votes import print_people
from tests.support.people import judged_pair


def test_votes_on_one_item_are_figures_without_intervals_and_without_alpha(monkeypatch, capsys):
    monkeypatch.setattr(output.console, "width", 140)
    one, none = Estimate(1.0, 1), Estimate(0.0, 1)
    pair = PairResult("M_2", "other", 1, 1, one, none, none, one, judge=None)
    rater = RaterResult("ann", 4, 0, share_of(2, 3), None, share_of(0, 0), Pace(9.0, 3.0, 0, 4))
    print_people(PeopleResults([pair], None, [], None, [rater], {}, 0, 0), {})
    printed = capsys.readouterr().out
    cells = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in printed.splitlines()
        if line.startswith("│")
    ]
    assert ["M_2 : other", "1", "1", "100.0", "0.0", "0.0", "100.0"] in cells
    assert ["ann", "4", "0", "2 of 3 (failed)", "-", "-", "9", "0"] in cells
    assert "alpha" not in printed


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ((), ""),
        (("constant answer",), "the judge fails a control (constant answer): its win rate says"),
        (None, "the judge's controls are not known"),
    ],
)
def test_judge_beside_people_is_shown_with_its_controls_and_what_it_has_judged(
    failed, said, monkeypatch, capsys
):
    monkeypatch.setattr(output.console, "width", 200)
    print_people(PeopleResults([judged_pair(failed)], None, [], None, [], {}, 0, 0), {})
    printed = capsys.readouterr().out
    assert "79 of 80 prompts judged" in printed
    assert said in printed
    assert ("control" in printed) is bool(said)
