"""A probe's extrapolation from records written by hand, and mistakes of its user."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from humpback_ray import pipeline, tables
from humpback_ray.cli import app
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.execution.stage import Context, StageRecord
from humpback_ray.planning import estimate, extrapolate, probe
from humpback_ray.rows import Segment, SegmentOutcome
from humpback_ray.sizing.hardware import parse_hardware
from tests.support.records import record

RUNNER = CliRunner()
NO_CORPUS = "settings.corpus.path=/none"  # stages are declared without one, and sooner


def recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", list(overrides))


def generated(num_rows: int, seconds: float, busy_seconds: float) -> StageRecord:
    return record(num_rows, seconds, figures={"engines": {"busy_seconds": busy_seconds}})


def trained(seconds: float, num_examples: int = 40, mean_tokens: int = 100) -> StageRecord:
    figures = {"num_examples": num_examples, "num_tokens": num_examples * mean_tokens}
    return record(num_examples, seconds, figures=figures)


def steps(*seconds: float, tokens: float = 800.0, saving: float = 0.0) -> list[dict]:
    """Step records of a training with one checkpoint, before its third step."""
    return [
        {"step": number, "seconds": second, "tokens_per_second": tokens / second,
         "checkpoint_seconds": saving if number == 3 else 0.0}
        for number, second in enumerate(seconds, start=1)
    ]  # fmt: skip


STEPS = steps(5.0, 1.0, 2.0, 2.0, 9.0, saving=3.0)
SAMPLE = extrapolate.Sample(
    records={
        "seed": record(seconds=0.1),
        "base/examples": record(seconds=0.5),
        "base/model": trained(50.0, num_examples=100),
        "backward/model": trained(50.0),
        "forward-0/model": trained(50.0),
        "candidates": generated(64, 40.0, 8.0),
        "iter-1/rated": generated(64, 30.0, 4.0),
        "iter-1/examples": record(seconds=5.0),
        "evaluation/M_0": generated(44, 35.0, 11.0),
    },
    steps={"base/model": STEPS, "backward/model": STEPS, "forward-0/model": STEPS},
    row_errors={"candidates": 0.1, "iter-1/rated": 0.05},
    web_tokens=300.0,
    num_rows=64,
    num_segments=640,
    done={"seed": record(seconds=0.2), "segments": record(seconds=33.0)},
)


def stages_of(*overrides: str, **changes) -> dict[str, extrapolate.StageForecast]:
    full = recipe(NO_CORPUS, *overrides)
    declared = pipeline.stages_of(full)
    found = extrapolate.extrapolate(full, declared, replace(SAMPLE, **changes))
    assert [stage.path for stage in found] == [stage.path for stage in declared]
    return {stage.path: stage for stage in found}


def test_forecast_of_generation_is_start_plus_engine_time_per_row():
    found = stages_of()
    assert found["candidates"].fixed_seconds == pytest.approx(32.0)
    assert found["candidates"].seconds == pytest.approx(32.0 + 640 * 8 / 64)
    assert found["candidates"].interval == pytest.approx((32 + 0.9 * 80, 32 + 1.1 * 80))
    assert found["iter-1/rated"].seconds == found["iter-2/rated"].seconds == pytest.approx(66.0)
    # The same prompts as in the probe, whatever the number of segments.
    assert found["evaluation/base"].seconds == found["evaluation/M_2"].seconds == 35.0
    assert stages_of("settings.num_candidates=3")["candidates"].num_units == 3 * 640


def test_forecast_of_a_filter_takes_the_rows_that_its_stages_read():
    found = stages_of("settings.prefilter={num_rated: 160, share: 0.25}")
    assert found["prefilter/candidates"].seconds == pytest.approx(32.0 + 160 * 8 / 64)
    assert found["prefilter/rated"].seconds == pytest.approx(26.0 + 160 * 4 / 64)
    assert found["candidates"].num_units == found["iter-2/rated"].num_units == 160
    assert found["candidates"].seconds == pytest.approx(32.0 + 160 * 8 / 64)
    assert found["prefilter/model"].seconds == 0.0


def test_forecast_shares_the_batches_among_engines():
    def candidates(*overrides: str) -> float:
        overrides = ("placement.engine.max_engines=8", *overrides)
        return stages_of(*overrides)["candidates"].seconds

    assert candidates() == pytest.approx(32 + 80 / 8)
    # 640 rows are three batches, and a batch is not split.
    assert candidates("placement.engine.rows_per_batch=256") == pytest.approx(32 + 80 / 3)


def test_forecast_of_an_endpoint_uses_its_measured_rate():
    records = {**SAMPLE.records, "iter-1/rated": record(64, 32.0)}
    found = stages_of("placement.engine.max_engines=8", records=records)
    assert found["iter-2/rated"].seconds == pytest.approx(320.0)


def test_forecast_of_training_is_start_plus_steps_plus_checkpoints():
    overrides = ["settings.backward_training.num_steps=101", "settings.random_seed=1",
                 "placement.training.checkpoint_every=20"]  # fmt: skip
    found = stages_of(*overrides)["backward/model"]
    # The median of the steps after the first is 2 s for 800 tokens, as a batch of 8 has here. Five
    # steps of the probe took 10 s so; the rest of 50 s is start, but for the checkpoint of 3 s.
    assert found.fixed_seconds == pytest.approx(50 - 3 - 10)
    assert found.seconds == pytest.approx(37 + 101 * 2 + 5 * 3)
    assert found.num_units == 101
    low, high = found.interval
    assert low < found.seconds < high


def test_forecast_leaves_out_the_first_step():
    same = stages_of(steps=SAMPLE.steps | {"backward/model": steps(9.0, 2.0, 2.0, 2.0)})
    assert same["backward/model"].relative_error == pytest.approx(0.0)
    assert same["backward/model"].seconds == pytest.approx(50 - 8 + 24 * 2)
    once = stages_of(steps=SAMPLE.steps | {"backward/model": steps(9.0, 2.0)})
    assert once["backward/model"].interval[0] == pytest.approx(50 - 4)


def test_forecast_of_an_iteration_counts_its_longer_examples():
    overrides = ["settings.forward_training.num_steps=null", "settings.selection.share=0.5"]
    found = stages_of(*overrides)
    # 40 of 100 tokens and 320 of 300. The paper's Table 18 makes 2.4 passes over 100 examples (30
    # steps of 8) and 3 over 800 (300 steps); 360 examples lie between.
    mean_tokens = (40 * 100 + 320 * 300) / 360
    assert found["iter-2/model"].num_units == round(360 * (2.4 + 0.6 * 260 / 700) / 8)
    assert found["forward-0/model"].num_units == 30
    by_token = 2 / 800
    steps_alone = 8 * mean_tokens * by_token
    # One checkpoint of 3 s every 12 steps.
    num_saves = (found["iter-1/model"].num_units - 1) // 12
    assert found["iter-1/model"].unit_seconds * found["iter-1/model"].num_units == pytest.approx(
        steps_alone * found["iter-1/model"].num_units + 3 * num_saves
    )


def test_forecast_of_the_base_model_counts_pieces_of_all_segments():
    overrides = ["settings.base.training.num_steps=null", "settings.base.training.batch_size=null"]
    # 100 pieces of a tenth of the segments: 1,000 of them.
    assert stages_of(*overrides)["base/model"].num_units == round(300 + 300 * 200 / 800)
    whole = stages_of(*overrides, done={**SAMPLE.done, "base/model": SAMPLE.records["base/model"]})
    assert whole["base/model"].num_units == 30
    assert whole["base/model"].is_done
    assert not whole["backward/model"].is_done


def test_forecast_of_other_stages_is_as_recorded():
    found = stages_of()
    assert (found["seed"].seconds, found["segments"].seconds) == (0.2, 33.0)
    assert found["base/examples"].seconds == 0.5
    assert found["iter-2/examples"].seconds == 5.0
    assert [path for path, stage in found.items() if stage.is_done] == ["seed", "segments"]


def test_relative_error_of_a_mean_equals_the_t_interval():
    assert extrapolate.relative_error([4.0]) == 1.0
    assert extrapolate.relative_error([0, 0, 0]) == 0.0
    # Mean 3, standard deviation 1.00504; Student's t of 99 and of 2 degrees of freedom.
    expected = 1.98422 * 1.00504 / 10 / 3
    assert extrapolate.relative_error([2.0, 4.0] * 50) == pytest.approx(expected, rel=1e-5)
    assert extrapolate.relative_error([2.0, 3.0, 4.0]) == pytest.approx(
        4.30265 / 3**0.5 / 3, rel=1e-5
    )


def test_shortened_recipe_trains_little_and_keeps_costs():
    full = recipe("settings.forward_training.num_steps=5", "placement.engine.max_engines=4")
    cut = probe.shortened(full)
    assert cut.settings.base.training.num_steps == 8
    assert cut.settings.forward_training.num_steps == 5
    assert cut.placement.engine.max_engines == 1
    assert cut.settings.augmentation == full.settings.augmentation
    assert cut.settings.rating.method == full.settings.rating.method
    assert Recipe.model_validate(cut.model_dump()) == cut
    assert probe.shortened(recipe("settings.evaluation.benchmarks={}")) == probe.shortened(recipe())


def segments(number: int) -> list[Segment]:
    return [
        Segment(f"s{n:03}", f"text {n}", "header", "doc", "doc.md", n, 6, SegmentOutcome.KEPT)
        for n in range(number)
    ]


def test_drawn_rows_are_whole_and_depend_on_the_seed(tmp_path):
    for part in range(3):
        rows = segments(30)[part * 10 : part * 10 + 10]
        tables.write_rows(str(tmp_path / "source"), rows, Segment, name=f"part-{part}")

    def drawn(name: str, random_seed: int) -> list[Segment]:
        context = Context(str(tmp_path), name, None, None, None)
        probe._draw(context, source=str(tmp_path / "source"), num_rows=7, random_seed=random_seed)
        return tables.read_rows(str(tmp_path / name / "rows"), Segment)

    first = drawn("first", 1)
    assert len(first) == 7
    assert all(row in segments(30) for row in first)
    assert drawn("again", 1) == first
    assert drawn("other", 2) != first


def test_probe_notes_tell_a_person_the_limits():
    def notes(num_asked: int, *overrides: str, **changes) -> list[str]:
        full, sample = recipe(NO_CORPUS, *overrides), replace(SAMPLE, **changes)
        return probe._notes(full, pipeline.stages_of(full), "runs/x", num_asked, sample)

    small = ("placement.engine.max_num_seqs=32",)
    done = SAMPLE.done | {"forward-0/model": SAMPLE.records["forward-0/model"]}
    assert notes(64, *small, done=done) == []
    (untrained,) = notes(64, *small)
    assert "humpback run tiny --run runs/x --until forward-0/model" in untrained
    (all_taken,) = notes(1000, done=done, num_rows=640)
    assert all_taken.startswith("--rows 1000: the run has 640 segments; all were taken")
    (not_full,) = notes(64, "placement.engine.max_num_seqs=512", done=done)
    assert not_full.endswith("Take --rows 640.")
    ratings = {path: r for path, r in SAMPLE.records.items() if path != "iter-1/rated"}
    (unmeasured,) = notes(64, *small, done=done, records=ratings)
    assert unmeasured == "Not measured, and counted as nothing: iter-1/rated, iter-2/rated."
    asked = "settings.evaluation.benchmarks={}"
    (unmeasured,) = notes(64, *small, asked, done=done)
    assert unmeasured.endswith(
        "counted as nothing: benchmarks/base, benchmarks/M_0, benchmarks/M_1, benchmarks/M_2."
    )


# --- the commands ---------------------------------------------------------------------------------


def refusal(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["probe", *arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("rows", ["0", "-3"])
def test_probe_of_zero_rows_is_a_user_error(tmp_path, rows):
    assert f"--rows {rows}: at least one segment" in refusal(str(tmp_path), "--rows", rows)


def test_probe_without_segments_names_the_command(tmp_path):
    command = f"humpback run RECIPE --run {tmp_path} --until segments"
    assert command in refusal(str(tmp_path))
    (tmp_path / "config.json").write_text(recipe().model_dump_json())
    line = refusal(str(tmp_path))
    assert "no finished segments" in line
    assert command.replace("RECIPE", "tiny") in line


def test_probe_of_a_run_of_another_version_is_a_user_error(tmp_path):
    config = recipe().model_dump(mode="json")
    config["placement"]["engine"]["one_stream"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "not a recipe of this version (1 keys or values differ)" in refusal(str(tmp_path))


def test_bad_price_is_a_user_error(tmp_path):
    assert "2.5/gpu-hour" in refusal(str(tmp_path), "--price", "cheap")


def probed(folder, plan: Recipe, num_gpus: int) -> None:
    stages = [stage for path, stage in stages_of().items() if path != "evaluation/M_1"]
    report = extrapolate.ProbeReport(plan, 64, 640, num_gpus, stages, [])
    extrapolate.write(report, str(folder))


def hours(folder, plan: Recipe, hardware: str = "8xH100") -> tuple[dict, str]:
    machines = parse_hardware(hardware)
    declared = pipeline.stages_of(plan)
    rows = estimate.estimate_stages(plan, declared, {"base/model": record(1)}, machines)
    found, line = extrapolate.replace_by_probe(plan, str(folder), machines, rows)
    return {row.path: row.hours for row in found}, line


def test_estimate_uses_a_probe_of_the_same_settings(tmp_path):
    plan = recipe()
    published, line = hours(tmp_path, plan)
    assert line == ""
    probed(tmp_path, plan, num_gpus=8)
    found, line = hours(tmp_path, plan)
    assert "measured" in line
    assert found["candidates"] == pytest.approx(112 / 3600)
    assert found["base/model"] == 0.0  # done
    assert found["evaluation/M_1"] == published["evaluation/M_1"]  # no forecast
    for other in (
        hours(tmp_path, plan, "4xH100"),
        hours(tmp_path, recipe("placement.engine.max_engines=2")),
        hours(tmp_path, recipe("settings.augmentation.max_tokens=9")),
    ):
        assert "is not used" in other[1]
        assert other[0]["candidates"] != found["candidates"]
    assert hours(tmp_path, recipe("placement.cluster.local_cpus=4"))[0] == found


def test_estimate_command_marks_measured_stages(tmp_path):
    probed(tmp_path, recipe(), num_gpus=8)
    arguments = ["estimate", "tiny", "--run", str(tmp_path), "--hardware", "8xH100"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "measured: " in result.stdout
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["provenance"]["versions"]["ray"]
    assert content["recipe"]["placement"] == recipe().placement.model_dump(mode="json")
    # Another number of rows is not what was measured.
    other = RUNNER.invoke(app, [*arguments, "--rows", "9"])
    assert "measured: " not in other.stdout
