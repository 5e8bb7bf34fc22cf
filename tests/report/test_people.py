"""The section on people's votes: a judge beside them is shown with what speaks against it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from humpback_ray.evaluation.people.results import PeopleResults
from humpback_ray.report.document import Paragraph, Table
from humpback_ray.report.sections.people import people
from tests.support.people import judged_pair


def blocks(failed: tuple[str, ...] | None) -> list:
    results = PeopleResults([judged_pair(failed)], None, [], None, [], {}, 0, 0)
    return list(people(SimpleNamespace(people=[results])))


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ((), "79 of 80 prompts and passes its controls."),
        (None, "79 of 80 prompts, and its controls are not known."),
        (
            ("empty answer", "constant answer"),
            "79 of 80 prompts and fails a control (empty answer, constant answer), so its win rate "
            "says nothing about quality.",
        ),
    ],
)
def test_judges_win_rate_has_its_controls_and_what_is_judged_beside_it(failed, said):
    (paragraph,) = [block for block in blocks(failed) if isinstance(block, Paragraph)]
    assert paragraph.text.endswith(said)
    assert paragraph.is_warning is bool(failed)
    assert "is 63.3% (" in paragraph.text, "50 of the 79 pairs that it decides"


def test_every_share_of_votes_has_its_interval_and_the_papers_stand_below():
    (table,) = [block for block in blocks(()) if isinstance(block, Table)]
    own, *paper = table.rows
    assert own[3:] == (
        "50.0% (35.2% to 64.8%)", "20.0% (10.5% to 34.8%)", "30.0% (18.1% to 45.4%)",
        "60.0% (44.6% to 73.7%)",
    )  # fmt: skip
    lima = next(row for row in paper if "LIMA" in row[0])
    assert lima[3:] == ("55.6%", "6.7%", "37.8%", "59.0%")
