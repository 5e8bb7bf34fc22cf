"""Augmentation, rating and evaluation with a scripted engine on a real Ray cluster."""

from __future__ import annotations

import io
import json
import urllib.request
from collections import Counter
from functools import partial

import pyarrow.parquet as pq
import pytest
import ray

from humpback_ray import tables
from humpback_ray.config.settings import (
    RatingSettings,
    SamplingSettings,
)
from humpback_ray.execution import progress
from humpback_ray.execution.stage import Source
from humpback_ray.rows import Candidate, Finish, RatedPair, RatingOutcome, SeedPair
from humpback_ray.serving.missing_rows import shard_key
from humpback_ray.stages.evaluate import Evaluate
from tests.support.generation import augmented, candidate, context, rate_stage, rated, segment
from tests.support.scripted_engine import ScriptedEngine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


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


def test_requests_that_the_engine_refuses_are_rows_with_an_outcome(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(20)]
    segments[7] = segment(7, "Here the engine refuses this.")
    result = augmented(tmp_path, segments, model_folder)
    assert result.outcomes == {"stop": 19, "engine_error": 1}


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


def test_means_have_one_file_for_each_shard_and_match_its_samples(tmp_path, model_folder):
    source, rows = tmp_path / "in", tmp_path / "rated" / "rows"
    for part in range(3):
        pairs = [candidate(10 * part + n) for n in range(7)]
        tables.write_rows(str(source), pairs, Candidate, name=f"part-{part}")
    settings = RatingSettings(method="mean", num_samples=3)
    stage = rate_stage(tmp_path, model_folder, settings)
    make_engine = partial(ScriptedEngine, script="some_prose")
    result = stage.run(context(tmp_path / "rated", rows_per_batch=8, make_engine=make_engine))
    samples = tables.read_rows(str(tmp_path / "rated" / "samples"), RatedPair)
    assert (result.num_rows, len(samples)) == (21, 63)
    keys = {shard_key(str(file)): file for file in source.glob("*.parquet")}
    assert {file.stem for file in rows.glob("*.parquet")} == keys.keys()
    for key, file in keys.items():
        wanted = set(pq.read_table(file)["candidate_id"].to_pylist())
        assert set(pq.read_table(rows / f"{key}.parquet")["candidate_id"].to_pylist()) == wanted
    # By hand, from all samples at once.
    scores: dict[str, list[float]] = {}
    for row in samples:
        scores.setdefault(row.candidate_id.rpartition("/")[0], [])
        if row.score is not None:
            scores[row.candidate_id.rpartition("/")[0]].append(row.score)
    assert {len(found) for found in scores.values()} >= {2, 3}, "some samples are prose"
    for row in tables.read_rows(str(rows), RatedPair):
        found = scores[row.candidate_id]
        assert row.score == (pytest.approx(sum(found) / len(found)) if found else None)
        of_pair = [s for s in samples if s.candidate_id.rpartition("/")[0] == row.candidate_id]
        assert row.num_generated_tokens == sum(s.num_generated_tokens for s in of_pair)


def test_mean_of_too_few_scored_samples_is_no_score(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(40)]
    settings = RatingSettings(
        method="mean", num_samples=3, min_scored_samples=2, min_scored_share=0.01
    )
    result = rated(tmp_path, pairs, model_folder, settings, "one_of_three")
    samples = tables.read_rows(f"{tmp_path}/rated/samples", RatedPair)
    num_scored = Counter(
        row.candidate_id.partition("/")[0] for row in samples if row.score is not None
    )
    rows = tables.read_rows(f"{tmp_path}/rated/rows", RatedPair)
    assert {row.candidate_id: row.num_scored_samples for row in rows} == {
        pair.candidate_id: num_scored[pair.candidate_id] for pair in pairs
    }
    wanted = {0: "no_score_line", 1: "too_few_samples", 2: "scored", 3: "scored"}
    assert {row.candidate_id: row.outcome.value for row in rows} == {
        pair.candidate_id: wanted[num_scored[pair.candidate_id]] for pair in pairs
    }
    assert all((row.score is None) == (row.num_scored_samples < 2) for row in rows)
    assert min(result.outcomes[name] for name in wanted.values()) > 0


def test_rater_with_too_little_grade_mass_stops_the_run_with_its_median(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(50)]
    with pytest.raises(ValueError, match=r"only \d+\.\d% of the pairs") as stopped:
        rated(tmp_path, pairs, model_folder, RatingSettings(), "little_mass")
    assert "with a probability of 0.08 (median)" in str(stopped.value)
    assert "settings.rating.min_grade_mass asks for 0.5" in str(stopped.value)
    rows = tables.read_rows(f"{tmp_path}/rated/rows", RatedPair)
    assert {(row.outcome.value, round(row.grade_mass, 2)) for row in rows} == {
        ("scored", 0.8), ("no_grade", 0.08)
    }  # fmt: skip
    result = rated(
        tmp_path / "lower", pairs, model_folder, RatingSettings(min_scored_share=0.0), "little_mass"
    )
    assert result.figures["median_grade_mass"] == 0.08
    assert result.figures["grade_mass_5_percent"] == 0.08


def test_rating_record_has_counts_by_tenth_and_thresholds(tmp_path, model_folder):
    pairs = [candidate(n) for n in range(50)]
    figures = rated(tmp_path, pairs, model_folder, RatingSettings(), "grades").figures
    rows = tables.read_rows(f"{tmp_path}/rated/rows", RatedPair)
    counted = Counter(f"{round(row.score, 4):.2f}"[:3] for row in rows)
    assert figures["scores"] == dict(sorted(counted.items()))
    assert set(figures["scores"]) == {"1.5", "2.2", "3.0", "3.7", "4.5"}
    assert figures["thresholds"].keys() == {"1%", "5%", "10%", "25%"}
    best = sorted((row.score for row in rows), reverse=True)
    assert figures["thresholds"]["1%"] == pytest.approx(best[0], abs=1e-4)
    assert figures["thresholds"]["25%"] == pytest.approx(best[11], abs=1e-4)
    assert figures["median_grade_mass"] == figures["grade_mass_5_percent"] == 1.0


def test_cut_instructions_are_counted_named_and_not_rated(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(60)]
    printed = io.StringIO()
    result = augmented(tmp_path, segments, model_folder, script="cut", printed=printed)
    num_cut = result.outcomes["length"]
    assert 5 < num_cut < 30
    assert result.figures["cut_share"] == pytest.approx(num_cut / 60, abs=1e-4)
    (line,) = printed.getvalue().splitlines()
    assert f"{num_cut / 60:.1%} of the instructions are cut at 32 tokens" in line
    assert "raise settings.augmentation.max_tokens" in line
    candidates = tables.read_rows(f"{tmp_path}/candidates/rows", Candidate)
    ratings = rated(tmp_path / "rate", candidates, model_folder, RatingSettings(), "grades")
    assert ratings.outcomes == {"scored": 60 - num_cut, "cut_instruction": num_cut}
    assert ratings.figures["scored_share"] == 1.0
    rows = tables.read_rows(f"{tmp_path}/rate/rated/rows", RatedPair)
    cut = {row.candidate_id for row in candidates if row.finish is Finish.LENGTH}
    assert {row.candidate_id for row in rows if row.score is None} == cut


def test_few_cut_instructions_print_no_line(tmp_path, model_folder):
    printed = io.StringIO()
    segments = [segment(n, f"A text about topic {n}.") for n in range(20)]
    result = augmented(tmp_path, segments, model_folder, printed=printed)
    assert (result.figures["cut_share"], printed.getvalue()) == (0.0, "")


def test_rates_and_engines_are_on_rays_prometheus_endpoint(tmp_path, model_folder):
    segments = [segment(n, f"A text about topic {n}.") for n in range(60)]
    found: set[str] = set()

    def look() -> None:
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        ours = (f'run="{tmp_path.name}"', 'stage="candidates"')
        found.update(line for line in lines if all(tag in line for tag in ours))

    with progress.polling(look):
        augmented(tmp_path, segments, model_folder, seconds_per_row=2.0, engine={"max_num_seqs": 8})
    names = {line.partition("{")[0] for line in found}
    assert names >= {"ray_humpback_rows_total", "ray_humpback_prompt_tokens_total",
                     "ray_humpback_generated_tokens_total", "ray_humpback_requests",
                     "ray_humpback_rows_saved", "ray_humpback_rows_wanted",
                     "ray_humpback_engines_running", "ray_humpback_engines_wanted"}  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "candidates/metrics.jsonl").open()]
    assert lines[-1]["engines_running"] == lines[-1]["engines_wanted"] == 1
    assert 0 < lines[-1]["rows"] <= lines[-1]["of"] == 60
    assert lines[-1]["generated_tokens_per_second"] > 0


@pytest.mark.long
def test_evaluation_writes_alpaca_evals_format_and_the_mean_loss_over_tokens(
    tmp_path, model_folder
):
    questions = [{"dataset": "mine", "instruction": f"Question {n}?"} for n in range(5)]
    (tmp_path / "prompts.json").write_text(json.dumps(questions))
    pairs = [SeedPair(f"p{n}", "Why?", "Because. " * n) for n in range(1, 4)]
    tables.write_rows(str(tmp_path / "held_out"), pairs, SeedPair)
    stage = Evaluate(
        path="out", name="M_1", model=Source(model_folder, "model"),
        seed=Source(str(tmp_path / "held_out"), "seed"),
        prompts=Source(str(tmp_path / "prompts.json"), "prompts"), seed_tag="S_a.",
        web_tag="S_w.", sampling=SamplingSettings(max_tokens=16), context_length=1024,
        dtype="float32", random_seed=0,
    )  # fmt: skip
    result = stage.run(context(tmp_path / "out", make_engine=ScriptedEngine))
    outputs = json.loads((tmp_path / "out" / "outputs.json").read_text())
    assert [row["instruction"] for row in outputs] == [q["instruction"] for q in questions]
    assert {row["generator"] for row in outputs} == {"M_1"}
    assert result.num_rows == 8
    assert result.figures["held_out_loss"] == 1.5
    assert result.figures["num_held_out_tokens"] > 10
