"""Augmentation, rating and evaluation with a scripted engine on a real Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from humpback_ray import observe, storage, tables
from humpback_ray.config import (
    EnginePlacement,
    Placement,
    PromptSettings,
    RatingSettings,
    SamplingSettings,
)
from humpback_ray.engines.vllm_generate import Model
from humpback_ray.records import Candidate, Finish, RatedPair, RatingOutcome, SeedPair, Segment
from humpback_ray.stages import augment, evaluate, rate
from humpback_ray.stages.stage import Context
from humpback_ray.text import prompts
from tests import scripted_engine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def segment(number: int, text: str) -> Segment:
    return Segment(f"segment-{number:04}", text, "A header", "doc", "doc.md", number, len(text),
                   "kept")  # fmt: skip


def context(folder: Path, rows_per_file: int = 16) -> Context:
    engine = EnginePlacement(device="cpu", rows_per_file=rows_per_file)
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return Context(
        str(folder), Placement(engine=engine), observe.StageProgress(console, "test"),
        observe.Metrics(str(folder / "metrics.jsonl")),
    )  # fmt: skip


def augmented(folder: Path, segments: list[Segment], model: str, **script):
    tables.write_rows(str(folder / "segments"), segments, Segment)
    engine = partial(scripted_engine.generate, **script)
    return augment.run(
        context(folder / "candidates"), segments=str(folder / "segments"),
        backward_model=Model(model, 1024, "float32"),
        tag="A tag.", sampling=SamplingSettings(max_tokens=32), engine=engine, random_seed=0,
    )  # fmt: skip


def rated(folder: Path, candidates: list[Candidate], model: str, settings, script: str, **more):
    tables.write_rows(str(folder / "in"), candidates, Candidate)
    return rate.run(
        context(folder / "rated"), candidates=str(folder / "in"),
        rater=Model(model, 2048, "float32"),
        template=prompts.RATING_TEMPLATE.template, settings=settings, iteration=1,
        engine=partial(scripted_engine.generate, script=script, **more),
        random_seed=0,
    )  # fmt: skip


def candidate(
    number: int, instruction: str = "Why is it so?", response: str = "It is."
) -> Candidate:
    return Candidate(f"c{number:04}", f"s{number:04}", instruction, response, Finish.STOP, 9, 9)


def test_every_segment_becomes_a_candidate_whatever_is_in_it(tmp_path, model_folder):
    poisoned = ["", "  \n", "too long " * 2000, "a\x00b", "x" * 5, "braces {x} $y", "</s> <s>"]
    segments = [segment(n, f"A text about topic {n}.") for n in range(40)]
    segments += [segment(100 + n, text) for n, text in enumerate(poisoned)]
    result = augmented(tmp_path, segments, model_folder)
    rows = {
        row.segment_id: row for row in tables.read_rows(f"{tmp_path}/candidates/rows", Candidate)
    }
    assert rows.keys() == {s.segment_id for s in segments}
    assert result.outcomes == {"stop": 44, "empty_prompt": 2, "prompt_too_long": 1}
    assert rows["segment-0003"].instruction.startswith("What is number")
    assert rows["segment-0102"].finish is Finish.PROMPT_TOO_LONG
    assert rows["segment-0102"].instruction == ""
    assert not storage.exists(f"{tmp_path}/candidates/_checkpoint")


def test_failures_of_the_engine_are_rows_with_an_outcome(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(20)]
    result = augmented(tmp_path, segments, model_folder, script="error")
    assert result.outcomes == {"engine_error": 20}


def test_expected_ratings_are_floats_with_probabilities(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(50)] + [candidate(99, instruction="")]
    result = rated(tmp_path, pairs, model_folder, RatingSettings(), "grades")
    rows = tables.read_rows(f"{tmp_path}/rated/rows", RatedPair)
    assert result.outcomes == {"scored": 50, "no_instruction": 1}
    assert result.figures["scored_share"] == 1.0
    scored = [row for row in rows if row.outcome is RatingOutcome.SCORED]
    assert {round(row.score, 2) for row in scored} == {1.5, 2.25, 3.0, 3.75, 4.5}
    assert all(sum(row.probabilities) == pytest.approx(1) for row in scored)
    (unrated,) = [row for row in rows if row.outcome is not RatingOutcome.SCORED]
    assert unrated.score is None
    assert unrated.probabilities is None


def test_text_ratings_are_parsed_and_failures_kept(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(60)] + [candidate(99, response="long " * 9000)]
    result = rated(tmp_path, pairs, model_folder, RatingSettings(method="text"), "some_prose")
    assert result.outcomes["no_score_line"] > 5
    assert result.outcomes["scored"] + result.outcomes["no_score_line"] == 60
    assert result.outcomes["prompt_too_long"] == 1
    rows = tables.read_rows(f"{tmp_path}/rated/rows", RatedPair)
    assert {row.score for row in rows if row.score is not None} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_rater_that_answers_in_prose_stops_the_run_with_five_of_its_answers(
    tmp_path, model_folder
):
    pairs = [candidate(n) for n in range(12)]
    with pytest.raises(ValueError, match=r"only 0\.0% of the pairs") as stopped:
        rated(tmp_path, pairs, model_folder, RatingSettings(method="text"), "prose")
    assert str(stopped.value).count("quite a good answer") == 5
    assert "12 no_score_line" in str(stopped.value)


def test_the_mean_of_samples_has_one_row_a_pair_and_keeps_the_samples(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(20)]
    settings = RatingSettings(method="mean", num_samples=3)
    result = rated(tmp_path, pairs, model_folder, settings, "rating_text")
    assert result.num_rows == 20
    samples = tables.read_rows(f"{tmp_path}/rated/samples", RatedPair)
    assert len(samples) == 60
    by_pair: dict[str, list[float]] = {}
    for row in samples:
        by_pair.setdefault(row.candidate_id.partition("/")[0], []).append(row.score)
    for row in tables.read_rows(f"{tmp_path}/rated/rows", RatedPair):
        assert row.score == pytest.approx(sum(by_pair[row.candidate_id]) / 3)
    assert len({tuple(scores) for scores in by_pair.values()}) > 3


def test_evaluation_writes_alpaca_evals_format_and_the_mean_loss_over_tokens(
    tmp_path, model_folder
):
    questions = [{"dataset": "mine", "instruction": f"Question {n}?"} for n in range(5)]
    (tmp_path / "prompts.json").write_text(json.dumps(questions))
    pairs = [SeedPair(f"p{n}", "Why?", "Because. " * n) for n in range(1, 4)]
    tables.write_rows(str(tmp_path / "held_out"), pairs, SeedPair)
    result = evaluate.run(
        context(tmp_path / "out"), name="M_1", evaluated_model=Model(model_folder, 1024, "float32"),
        prompts_file=str(tmp_path / "prompts.json"), held_out=str(tmp_path / "held_out"),
        tags=PromptSettings(), sampling=SamplingSettings(max_tokens=16),
        engine=scripted_engine.generate, random_seed=0,
    )  # fmt: skip
    outputs = json.loads((tmp_path / "out" / "outputs.json").read_text())
    assert [row["instruction"] for row in outputs] == [q["instruction"] for q in questions]
    assert {row["generator"] for row in outputs} == {"M_1"}
    assert result.num_rows == 8
    assert result.figures["held_out_loss"] == 1.5
    assert result.figures["num_held_out_tokens"] > 10


KILLED = """
import sys
from pathlib import Path
import ray
ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR")
from tests.stages import test_generation_stages as stages
folder, model, counter = sys.argv[1:]
segments = [stages.segment(n, f"A text about topic {n}.") for n in range(200)]
result = stages.augmented(Path(folder), segments, model, counter=counter, seconds_per_row=0.05)
print("rows", result.num_rows)
ray.shutdown()
"""


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_a_killed_driver_resumes_without_computing_finished_rows_again(tmp_path, model_folder):
    counter = tmp_path / "counter"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), model_folder,
               str(counter)]  # fmt: skip
    root = Path(__file__).parents[2]
    first = subprocess.Popen(command, cwd=root, start_new_session=True)
    rows = tmp_path / "candidates" / "rows"
    deadline = time.monotonic() + 120
    while len(list(rows.glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    left = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    # The killed driver's workers finish what they hold before they notice.
    workers = [process for process in left if "ray::" in " ".join(_command_line(process))]
    psutil.wait_procs(workers, timeout=60)
    num_saved = tables.num_rows(str(rows))
    assert 0 < num_saved < 200
    counter.write_bytes(b"")
    second = subprocess.run(
        command, cwd=root, timeout=180, capture_output=True, text=True, check=True
    )
    assert "rows 200" in second.stdout
    ids = [row.segment_id for row in tables.read_rows(str(rows), Candidate)]
    assert max(Counter(ids).values()) == 1
    assert len(ids) == 200
    # What was in flight may be computed again, what was saved may not.
    assert 200 - num_saved - 16 <= len(counter.read_bytes()) <= 200 - num_saved + 16
