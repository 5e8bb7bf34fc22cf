"""Rows and engines that go wrong: every row comes out once, with what became of it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from humpback_ray import tables
from humpback_ray.config import LongPromptSettings
from humpback_ray.records import Candidate, Finish
from humpback_ray.stages.stage import Result
from tests.stages.test_generation_stages import augmented, segment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROWS_PER_BATCH, NUM_CONCURRENT = 16, 2  # the defaults of `augmented`
LONG = "A long text about many things. " * 150  # of 150 times 31 characters: more than 1,024 tokens

POISONED = {
    "": Finish.EMPTY_PROMPT,
    " \n\t\u3000 ": Finish.EMPTY_PROMPT,
    "too long " * 4000: Finish.PROMPT_TOO_LONG,
    "before\x00after": Finish.STOP,
    "\ufffd\ufffe \U0010ffff \u202e \u200b": Finish.STOP,
    # A half of a pair cannot stand in an Arrow string; this is how such text gets there.
    "half of a pair: \ud83d.".encode("utf-8", "replace").decode(): Finish.STOP,
    "</s><s> <unk> <|im_start|> [INST] {text} {{x}} %s \\": Finish.STOP,
    "Here the engine refuses this. ": Finish.ENGINE_ERROR,
    "Here the engine raises at this. ": Finish.ENGINE_ERROR,
    "Here the engine dies of this. ": Finish.ENGINE_ERROR,
}


def rows_of(folder: Path) -> dict[str, Candidate]:
    """The candidates on disk by segment, each there once."""
    rows = tables.read_rows(str(folder / "candidates" / "rows"), Candidate)
    assert max(Counter(row.candidate_id for row in rows).values()) == 1
    return {row.segment_id: row for row in rows}


def num_restarts(result: Result) -> int:
    return result.figures["engines"]["num_restarts"]


def test_poisoned_rows_come_out_with_their_outcome_and_harm_nobody(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(300)]
    expected = {each.segment_id: Finish.STOP for each in segments}
    for number, (text, finish) in enumerate(POISONED.items()):
        segments[number * 29 + 3] = segment(number * 29 + 3, text)
        expected[f"segment-{number * 29 + 3:04}"] = finish
    counter = tmp_path / "counter"
    result = augmented(
        tmp_path, segments, model_folder, script="poisoned", counter=str(counter)
    )
    assert {name: row.finish for name, row in rows_of(tmp_path).items()} == expected
    assert result.num_rows == 300
    # Two rows end engines, each as often as it takes to find it; what was inside is done again.
    assert 8 <= num_restarts(result) <= 14
    num_answered = len(counter.read_bytes())
    in_flight = num_restarts(result) * ROWS_PER_BATCH * NUM_CONCURRENT
    assert num_answered <= 1.05 * 300 + in_flight
