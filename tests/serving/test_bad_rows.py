"""Rows and engines that go wrong: every row comes out once, with what became of it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from humpback_ray import tables
from humpback_ray.config.settings import LongPromptSettings
from humpback_ray.execution.stage import Result
from humpback_ray.rows import Candidate, Finish
from tests.support.generation import augmented, segment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

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


def test_poisoned_rows_become_outcomes_and_other_rows_are_answered(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(300)]
    expected = {each.segment_id: Finish.STOP for each in segments}
    for number, (text, finish) in enumerate(POISONED.items()):
        segments[number * 29 + 3] = segment(number * 29 + 3, text)
        expected[f"segment-{number * 29 + 3:04}"] = finish
    counter = tmp_path / "counter"
    # Small batches, because every halving of what was inside is a start of an engine.
    in_batches = {"rows_per_batch": 4, "max_concurrent_batches": 2}
    result = augmented(
        tmp_path, segments, model_folder, script="poisoned", counter=str(counter), engine=in_batches
    )
    rows = rows_of(tmp_path)
    assert {name: row.finish for name, row in rows.items()} == expected
    assert result.num_rows == 300
    (dropped,) = [row for row in rows.values() if row.finish is Finish.PROMPT_TOO_LONG]
    assert dropped.instruction == ""
    assert dropped.response in POISONED
    assert dropped.num_prompt_tokens > 1024
    # Two rows end engines, each as often as it takes to find it; what was inside is done again.
    assert 8 <= num_restarts(result) <= 14
    num_answered = len(counter.read_bytes())
    in_flight = num_restarts(result) * 4 * 2
    assert num_answered <= 1.05 * 300 + in_flight


def test_long_response_is_cut_in_the_prompt_and_kept_whole_in_the_row(tmp_path, model_folder):
    segments = [segment(0, "A text."), segment(1, LONG)]
    policy = LongPromptSettings(policy="truncate_response")
    augmented(tmp_path, segments, model_folder, long_prompts=policy)
    rows = rows_of(tmp_path)
    assert [rows[f"segment-000{n}"].was_cut for n in range(2)] == [False, True]
    cut = rows["segment-0001"]
    assert cut.finish is Finish.STOP
    assert cut.response == LONG
    assert 512 < cut.num_prompt_tokens <= 1024 - 32  # the answer's 32 tokens have their place


@pytest.mark.long
def test_long_prompts_go_to_an_engine_with_more_context(tmp_path, model_folder):
    segments = [segment(0, "A text."), segment(1, LONG), segment(2, LONG * 5)]
    policy = LongPromptSettings(policy="route_long", context_length=8192)
    augmented(tmp_path, segments, model_folder, long_prompts=policy)
    rows = rows_of(tmp_path)
    assert [rows[f"segment-000{n}"].finish for n in range(3)] == [
        Finish.STOP, Finish.STOP, Finish.PROMPT_TOO_LONG
    ]  # fmt: skip
    assert 1024 < rows["segment-0001"].num_prompt_tokens < 8192
    assert not any(row.was_cut for row in rows.values())


def test_segment_gets_num_candidates_and_repeated_rows_are_dropped(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(40)]
    counter = tmp_path / "counter"
    script = {"num_candidates": 3, "num_files": 2, "script": "answer", "counter": str(counter)}
    result = augmented(tmp_path, segments, model_folder, **script)
    folder = tmp_path / "candidates" / "rows"
    wanted = {f"{each.segment_id}-{number}" for each in segments for number in range(3)}
    rows = tables.read_rows(str(folder), Candidate)
    assert {row.candidate_id for row in rows} == wanted
    assert result.num_rows == len(rows) == len(counter.read_bytes()) == 120
    assert len({row.instruction for row in rows if row.segment_id == "segment-0003"}) > 1

    # A copy, as a batch of another size would leave one, and a file that is gone.
    first, second = sorted(folder.glob("*.parquet"))
    key = first.name.partition("-")[0]
    shutil.copy(first, folder / f"{key}-copy.parquet")
    num_gone = tables.read_table(str(folder)).num_rows
    second.unlink()
    num_gone -= tables.read_table(str(folder)).num_rows
    counter.write_bytes(b"")
    assert augmented(tmp_path, segments, model_folder, **script).num_rows == 120
    assert {row.candidate_id for row in tables.read_rows(str(folder), Candidate)} == wanted
    assert tables.assert_unique(str(folder), "candidate_id") == 120
    assert len(counter.read_bytes()) == num_gone


def test_failed_engine_start_is_reported_once(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(60)]
    with pytest.raises(
        ValueError, match=r"the engine cannot start on .*device is too old"
    ) as error:
        augmented(tmp_path, segments, model_folder, script="no_start")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "candidates" / "rows").exists()


@pytest.mark.long
def test_fast_failed_start_waits_for_engines_that_are_starting(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(60)]
    script = {"broken_once": str(tmp_path / "broken"), "seconds_to_start": 5.0}
    engine = {"min_engines": 2, "max_engines": 2}
    result = augmented(tmp_path, segments, model_folder, **script, engine=engine)
    assert result.outcomes == {"stop": 60}
    assert (tmp_path / "broken").exists()


@pytest.mark.long
def test_engines_that_always_die_end_the_pass(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(60)]
    engine = {"max_restarts": 2}
    with pytest.raises(ValueError, match=r"died 3 times .*illegal memory access") as error:
        augmented(tmp_path, segments, model_folder, script="dies", engine=engine)
    assert "\n" not in str(error.value)
