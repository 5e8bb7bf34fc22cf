"""Segments counted by their best scores, whatever the passes and files."""

from __future__ import annotations

import random

import pytest

from humpback_ray import tables
from humpback_ray.ablations.supply import segments_by_score
from humpback_ray.rows import RatedPair
from tests.support.rated_pairs import pair


@pytest.mark.parametrize("rows_per_pass", [1, 17, 1000])
def test_counts_are_those_of_the_best_scores_of_the_segments(tmp_path, rows_per_pass):
    generator = random.Random(0)
    pairs = [
        pair(segment, candidate, generator.choice([None, 1.0, 3.5, 4.0, 4.5, 4.99]))
        for segment in range(80) for candidate in range(3)
    ]  # fmt: skip
    generator.shuffle(pairs)
    for number in range(4):
        tables.write_rows(str(tmp_path), pairs[number::4], RatedPair, f"part-{number}")
    best: dict[str, float] = {}
    for row in pairs:
        if row.score is not None:
            best[row.segment_id] = max(row.score, best.get(row.segment_id, 0))
    num_segments, num_at_least = segments_by_score(str(tmp_path), [3.5, 4.5, 5.0], rows_per_pass)
    assert num_segments == len(best) < 80
    assert num_at_least == {k: sum(s >= k for s in best.values()) for k in (3.5, 4.5, 5.0)}
    assert 0 < num_at_least[4.5] < num_at_least[3.5]
