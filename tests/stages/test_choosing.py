"""The choice among rated pairs by tasks, against a plain one in memory."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from humpback_ray import tables
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.corpus import order_statistics
from humpback_ray.errors import UserError
from humpback_ray.method.selection import eligible
from humpback_ray.rows import RatedPair
from humpback_ray.stages import choosing
from tests.support.duplicates import one_by_one
from tests.support.rated_pairs import pair

# Few different scores, so that most pairs are tied; some segments have several candidates.
SCORES = (None, 1.0, 2.0, 3.0, 3.75, 4.0, 4.5, 4.5, 5.0)
METHODS: list[dict[str, Any]] = [
    {}, {"method": "all"}, {"method": "share", "share": 0.1}, {"method": "best", "num_best": 77},
    {"method": "best", "num_best": 10_000},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch):
    monkeypatch.setattr(choosing, "PAIRS_PER_GROUP", 120)
    monkeypatch.setattr(order_statistics, "MAX_SORTED", 50)


def generated(seed: int = 0, num_segments: int = 200) -> list[RatedPair]:
    generator = random.Random(seed)
    pairs = [
        pair(segment, candidate, generator.choice(SCORES))
        for segment in range(num_segments)
        for candidate in range(generator.choice((1, 1, 2, 3)))
    ]
    generator.shuffle(pairs)
    return pairs


def written(folder: Path, pairs: list[RatedPair], num_files: int = 9) -> str:
    for number in range(num_files):
        rows = pairs[number::num_files]
        tables.write_rows(str(folder / "rated"), rows, RatedPair, f"part-{number:03}")
    return str(folder / "rated")


def choose(folder: Path, settings: SelectionSettings, tasks=one_by_one):
    """The chosen rows as the files have them, and the figures."""
    pairs = choosing.compared(str(folder / "rated"), str(folder / "work"), settings, tasks)
    figures = pairs.write(str(folder / "rows"), unchanged)
    return tables.read_rows(str(folder / "rows"), RatedPair), figures


def unchanged(table: pa.Table) -> pa.Table:
    return table


def plainly_chosen(pairs: list[RatedPair], settings: SelectionSettings) -> list[RatedPair]:
    """The same choice with all pairs in one list."""
    scored = [(p.candidate_id, p.segment_id, p.score) for p in pairs if p.score is not None]
    ranked = sorted(eligible(scored, settings), key=lambda entry: (-entry[1], entry[0]))
    number = {
        "threshold": sum(score >= settings.k for _, score in ranked),
        "best": settings.num_best,
        "share": round(settings.share * len(ranked)),
        "all": len(ranked),
    }[settings.method]
    ids = [name for name, _ in ranked[:number]]
    drawn = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen = set(drawn[: settings.max_pairs])
    return sorted((p for p in pairs if p.candidate_id in chosen), key=lambda row: row.candidate_id)


@pytest.mark.parametrize("max_pairs", [None, 25, 5000])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_chosen_rows_are_those_of_a_choice_in_memory(tmp_path, method, max_pairs):
    settings = SelectionSettings(**method, max_pairs=max_pairs)
    pairs = generated()
    written(tmp_path, pairs)
    rows, figures = choose(tmp_path, settings)
    expected = plainly_chosen(pairs, settings)
    assert rows == expected
    scored = [row.score for row in pairs if row.score is not None]
    chosen = [row.score for row in expected]
    assert figures == {
        "num_scored": len(scored),
        "num_segments": len({row.segment_id for row in pairs if row.score is not None}),
        "num_selected": len(expected),
        "lowest_selected_score": round(min(chosen), 4),
        "mean_selected_score": round(sum(chosen) / len(chosen), 4),
        "mean_score": round(sum(scored) / len(scored), 4),
    }


@pytest.mark.parametrize("num_files", [1, 24])
def test_choice_does_not_depend_on_files_tasks_and_order(tmp_path, monkeypatch, num_files):
    settings = SelectionSettings(method="best", num_best=60, max_pairs=30)
    pairs = generated()
    written(tmp_path / "one", pairs)
    one = choose(tmp_path / "one", settings)
    monkeypatch.setattr(choosing, "PAIRS_PER_GROUP", 30)
    written(tmp_path / "other", random.Random(num_files).sample(pairs, len(pairs)), num_files)
    assert choose(tmp_path / "other", settings) == one


def test_a_larger_draw_has_every_pair_of_a_smaller_one(tmp_path):
    written(tmp_path, generated())
    drawn = []
    for number in (1, 60):
        settings = SelectionSettings(method="all", max_pairs=number)
        pairs = choosing.compared(
            str(tmp_path / "rated"), str(tmp_path / f"work-{number}"), settings, one_by_one
        )
        pairs.write(str(tmp_path / f"{number}"), unchanged)
        rows = tables.read_rows(str(tmp_path / f"{number}"), RatedPair)
        drawn.append({row.candidate_id for row in rows})
    assert [len(ids) for ids in drawn] == [1, 60]
    assert drawn[0] < drawn[1]


def test_drawn_pairs_do_not_follow_the_score(tmp_path):
    written(tmp_path, [pair(n, 0, 1 + n / 100) for n in range(400)])
    rows, _ = choose(tmp_path, SelectionSettings(method="all", max_pairs=200))
    assert 2.8 < sum(row.score for row in rows) / 200 < 3.2  # of all: 2.995


def test_thresholds_and_counts_of_scores_are_those_of_a_list(tmp_path):
    pairs = generated(1)
    written(tmp_path, pairs)
    found = choosing.compared(
        str(tmp_path / "rated"), str(tmp_path / "work"), SelectionSettings(), one_by_one
    )
    best: dict[str, float] = {}
    for row in pairs:
        if row.score is not None:
            best[row.segment_id] = max(row.score, best.get(row.segment_id, row.score))
    ranked = sorted(best.values(), reverse=True)
    shares = {"1%": 0.01, "5%": 0.05, "10%": 0.1, "25%": 0.25}
    assert found.thresholds() == {
        name: ranked[round(share * len(ranked)) - 1] for name, share in shares.items()
    }
    assert found.num_eligible == len(best)
    assert found.tenths == {
        round(10 * score): sum(row.score == score for row in pairs)
        for score in set(SCORES) - {None, 3.75}
    } | {37: sum(row.score == 3.75 for row in pairs)}


@pytest.mark.parametrize(
    "settings", [SelectionSettings(k=5), SelectionSettings(method="share", share=0.01)]
)
def test_empty_selection_is_refused_with_the_scores_and_the_way_out(tmp_path, settings):
    written(tmp_path, [pair(n, 0, 1 + n / 5) for n in range(19)], 1)
    with pytest.raises(UserError, match=r"none of the 19 .*run from 1\.00 to 4\.60.*selection\.me"):
        choose(tmp_path, settings)


def test_selection_without_scores_is_refused(tmp_path):
    written(tmp_path, [pair(n, 0, None) for n in range(3)], 1)
    with pytest.raises(UserError, match="no pair has a score"):
        choose(tmp_path, SelectionSettings())
    found = choosing.compared(
        str(tmp_path / "rated"), str(tmp_path / "work"), SelectionSettings(), one_by_one
    )
    assert found.thresholds() == {}


def test_repeated_candidate_fails_an_assertion(tmp_path):
    written(tmp_path, [pair(1, 0, 4.9), pair(1, 0, 4.8)], 2)
    with pytest.raises(AssertionError, match="not unique"):
        choose(tmp_path, SelectionSettings())


def test_killed_choice_runs_no_finished_task_again_and_gives_the_same_rows(tmp_path):
    settings = SelectionSettings(method="best", num_best=60, max_pairs=30)
    pairs = generated()
    for name in ("whole", "killed"):
        written(tmp_path / name, pairs)
    done: list[str] = []

    def counted(label, work, items):
        found = []
        for item in items:
            found.append(work(*item))
            done.append(label)
        return found

    whole = choose(tmp_path / "whole", settings, counted)
    num_tasks = len(done)
    for limit in range(1, num_tasks, 4):

        def killed(label, work, items, limit=limit):
            found = []
            for item in items:
                files = len(list((tmp_path / "killed" / "work" / "done").glob("*.json")))
                found.append(work(*item))
                if files >= limit:
                    raise KeyboardInterrupt
            return found

        with pytest.raises(KeyboardInterrupt):
            choose(tmp_path / "killed", settings, killed)
    assert choose(tmp_path / "killed", settings) == whole
