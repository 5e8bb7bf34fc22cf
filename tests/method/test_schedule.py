"""Batches, steps and learning rates."""

from __future__ import annotations

import random

import pytest

from humpback_ray.config.settings import TrainingSettings
from humpback_ray.method.schedule import (
    batch_indices,
    epoch_order,
    has_diverged,
    learning_rate,
    num_passes,
    passes_line,
    schedule,
)
from tests.support.training import SEED

# --- pure arithmetic ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [
        (1, (8, 30)),
        (100, (8, 30)),
        (450, (8, 152)),
        (800, (8, 300)),
        (1_600, (8, 600)),
        (2_400, (8, 1_200)),
        (2_999, (8, 1_780)),
        (3_000, (32, 445)),
        (4_800, (32, 600)),
        (3_200, (32, 500)),
        (6_400, (32, 600)),
        (12_800, (32, 600)),
        (19_200, (32, 900)),
        (25_600, (32, 1_200)),
        (51_200, (32, 1_600)),
        (500_000, (32, 1_600)),
    ],
)
def test_schedule_follows_the_papers_table(num_examples: int, expected: tuple[int, int]) -> None:
    assert schedule(num_examples, TrainingSettings()) == expected


def test_schedule_keeps_the_batch_size_and_steps_of_the_settings() -> None:
    assert schedule(2_999, TrainingSettings())[0] == 8
    assert schedule(3_000, TrainingSettings())[0] == 32
    assert schedule(100, TrainingSettings(batch_size=6)) == (6, 30)
    assert schedule(100, TrainingSettings(num_steps=5)) == (8, 5)


def test_passes_over_the_data_do_not_jump_where_the_batch_grows() -> None:
    def passes(num_examples: int) -> float:
        return num_passes(num_examples, *schedule(num_examples, TrainingSettings()))

    found = [passes(n) for n in range(1_600, 3_201, 50)]
    assert found == sorted(found), "three passes at 1,600 and five at 3,200, and up in between"
    assert (found[0], found[-1]) == (3.0, 5.0)
    assert passes(2_999) == pytest.approx(passes(3_000), abs=0.02)
    assert passes(2_400) == 4.0


def test_passes_line_gives_passes_and_the_share_of_seen_examples() -> None:
    assert passes_line(3_200, 32, 500) == "500 steps of 32 examples are 5.00 passes over the data"
    line = passes_line(512_000, *schedule(512_000, TrainingSettings()))
    assert line == (
        "1,600 steps of 32 examples are 0.10 passes over the data: 51,200 of 512,000 examples are "
        "seen (10.0%); the paper's Table 18 ends at 51,200, num_steps sets more"
    )
    assert "Table 18" not in passes_line(1_000, 8, 5)
    assert "40 of 1,000 examples are seen (4.0%)" in passes_line(1_000, 8, 5)


def test_batches_cover_whole_epochs_in_different_orders() -> None:
    num_examples, batch_size = 10, 4
    seen = [i for step in range(1, 6) for i in batch_indices(step, batch_size, num_examples, SEED)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:], "two epochs have the same order"
    assert tuple(seen[10:]) == epoch_order(1, num_examples, SEED)
    assert epoch_order(0, num_examples, SEED) != epoch_order(0, num_examples, SEED + 1)
    # A batch may be larger than the set: it then sees examples more than once.
    assert sorted(batch_indices(1, 6, 3, SEED)) == [0, 0, 1, 1, 2, 2]


def test_learning_rate_is_linear_between_its_ends() -> None:
    settings = TrainingSettings(learning_rate=1e-5, final_learning_rate=9e-6)
    rates = [learning_rate(step, 11, settings) for step in range(1, 12)]
    assert rates[0] == 1e-5
    assert rates[-1] == pytest.approx(9e-6)
    assert rates[5] == pytest.approx(9.5e-6)
    warm = settings.model_copy(update={"warmup_steps": 4})
    assert [learning_rate(step, 11, warm) for step in (1, 2, 4)] == pytest.approx(
        [2.5e-6, 5e-6, 1e-5]
    )
    assert learning_rate(11, 11, warm) == pytest.approx(9e-6)
    assert learning_rate(1, 1, settings) == 1e-5


def test_divergence_is_told_from_noise() -> None:
    draw = random.Random(0)
    noisy = [2.0 + draw.uniform(-1, 1) for _ in range(200)]
    assert not any(has_diverged(noisy[:end]) for end in range(1, 200))
    falling = [5.0 - step / 100 for step in range(200)]
    assert not has_diverged(falling)
    assert not has_diverged([4.0] * 20 + [9.0] * 19), "two windows are needed"
    assert has_diverged([5.7, 5.6, *(60.0 for _ in range(19))]), "broken from the start"
    assert not has_diverged([5.7, *(60.0 for _ in range(19))]), "one window is needed"
    assert has_diverged([*falling[:100], *(9.0 for _ in range(20))])
