"""The filter before augmentation: its place in the method, and its stages on scripted engines."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from humpback_ray import tables
from humpback_ray.cli import app
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.pipeline import stages_of
from humpback_ray.rows import RatedPair, ScoredSegment, Segment
from humpback_ray.stages import prefilter
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.prefilter import PrefilterModel, PromisingSegments, SampledSegments
from humpback_ray.stages.rate import Rate
from tests.support.prefilter import run_stage, scored_texts, stages_on

RUNNER = CliRunner()
ON = "settings.prefilter={}"


def declared(*overrides: str):
    recipe = load_recipe("tiny", ["settings.corpus.path=/none", *overrides])
    return {stage.path: stage for stage in stages_of(recipe)}


def fingerprints(*overrides: str) -> dict[str, str]:
    return {path: stage.fingerprint for path, stage in declared(*overrides).items()}


# --- in the method --------------------------------------------------------------------------------


def test_augmentation_reads_promising_segments_only_where_the_recipe_asks_for_it():
    usual, filtered = declared(), declared(ON)
    assert [path for path in filtered if path not in usual] == [
        "prefilter/sample", "prefilter/candidates", "prefilter/rated", "prefilter/model",
        "prefilter/segments",
    ]  # fmt: skip
    assert usual["candidates"].segments is usual["segments"]
    promising = filtered["candidates"].segments
    assert promising is filtered["prefilter/segments"]
    assert promising.segments is filtered["segments"]
    assert promising.model.rated.candidates.segments.segments is filtered["segments"]
    # M_yx writes and M_0 rates; both are finished before.
    order = list(filtered)
    assert filtered["prefilter/candidates"].model is filtered["backward/model"]
    assert filtered["prefilter/rated"].rater is filtered["forward-0/model"]
    assert order.index("forward-0/model") < order.index("prefilter/sample")
    assert order.index("prefilter/segments") < order.index("candidates")


def test_filter_changes_no_stage_before_it():
    usual, filtered = fingerprints(), fingerprints(ON)
    before = list(usual)[: list(usual).index("candidates")]
    assert {path: filtered[path] for path in before} == {path: usual[path] for path in before}
    assert filtered["candidates"] != usual["candidates"]


def changed(*overrides: str) -> list[str]:
    old, new = fingerprints(ON), fingerprints(*overrides)
    return [path for path in old if path.startswith("prefilter/") and old[path] != new[path]]


def test_another_cut_needs_no_new_ratings_and_no_new_model():
    assert changed("settings.prefilter={share: 0.2}") == ["prefilter/segments"]
    assert changed(ON, "settings.selection={method: best, num_best: 7}") == []
    assert len(changed("settings.prefilter={num_rated: 1000}")) == 5
    assert changed(ON, "settings.rating.rubric=additive")[0] == "prefilter/rated"


def test_rater_behind_an_endpoint_rates_the_sample_too():
    endpoint = "settings.rating.endpoint={url: 'http://rater.example/v1', model: large}"
    rated = declared(ON, endpoint)["prefilter/rated"]
    assert rated.rater is None
    assert not rated.uses_engines
    assert rated.part == "rate"  # so a run looks for the key before any work


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{share: 1}", "settings.prefilter.share"), ("{share: 0}", "settings.prefilter.share"),
        ("{num_rated: 99}", "settings.prefilter.num_rated"),
        ("{cut: 0.1}", "settings.prefilter.cut"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_line(settings, message):
    result = RUNNER.invoke(app, ["plan", "tiny", f"--set=settings.prefilter={settings}"])
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert message in line


def test_sample_of_all_segments_is_refused_before_any_work(tmp_path):
    stages = stages_on(tmp_path, scored_texts(150)[0], "model", "{num_rated: 150}")
    with pytest.raises(UserError, match="num_rated=150 is not below the run's 150 segments"):
        run_stage(tmp_path, stages[0])
    assert not (tmp_path / "prefilter").exists()


# --- on scripted engines --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    return scored_texts(700)[0]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory, texts, model_folder, ray_cluster):
    """The run's folder, the stages with their results, and the lines on the terminal."""
    folder = tmp_path_factory.mktemp("run")
    stages = stages_on(folder, texts, model_folder, "{num_rated: 200, share: 0.2}")
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    results = {type(stage): run_stage(folder, stage, console) for stage in stages}
    return folder, results, console.export_text()


def num_good(text: str) -> int:
    return text.count("good")


@pytest.mark.slow
def test_filter_keeps_the_texts_that_the_rater_would_rate_best(filtered, texts):
    folder, results, printed = filtered
    result = results[PromisingSegments]
    assert result.outcomes == {"kept": 140, "not_promising": 560}
    kept = tables.read_rows(f"{folder}/prefilter/segments/rows", ScoredSegment)
    dropped = tables.read_rows(f"{folder}/prefilter/segments/dropped", ScoredSegment)
    assert {row.text for row in (*kept, *dropped)} == set(texts)
    assert {row.outcome.value for row in kept} == {"kept"}
    assert {row.outcome.value for row in dropped} == {"not_promising"}
    lowest = min(row.score for row in kept)
    assert lowest >= max(row.score for row in dropped)
    assert result.figures["lowest_score"] == pytest.approx(lowest, abs=1e-4)
    best = sorted(texts, key=num_good)[-140:]
    assert len({row.text for row in kept} & set(best)) > 56  # twice as many as by chance
    figures = results[PrefilterModel].figures
    assert figures["rank_correlation"][1] > 0.3
    assert figures["recall"]["25%"]["of_cut"]["20%"][1] > 0.2
    assert "have a rank correlation of" in printed
    assert "(score >=" in printed


@pytest.mark.slow
def test_model_learns_from_every_scored_pair_of_a_sample_drawn_by_ids(filtered, texts):
    folder, results, _ = filtered
    sample = tables.read_rows(f"{folder}/prefilter/sample/rows", Segment)
    rated = tables.read_rows(f"{folder}/prefilter/rated/rows", RatedPair)
    assert results[SampledSegments].num_rows == len(sample) == 200
    assert {row.segment_id for row in rated} == {row.segment_id for row in sample}
    assert results[PrefilterModel].outcomes == {"scored": 200, "no_score": 0}
    for path in ("sample", "model", "segments"):
        assert not (folder / "prefilter" / path / prefilter.WORK).exists()


@pytest.mark.slow
def test_stages_do_not_depend_on_files_and_order_and_survive_a_kill(
    filtered, texts, model_folder, tmp_path, monkeypatch
):
    folder, _, _ = filtered
    shuffled = random.Random(0).sample(texts, len(texts))
    stages = stages_on(tmp_path, shuffled, model_folder, "{num_rated: 200, share: 0.2}", 8)
    run_stage(tmp_path, stages[0])
    ids = [
        {row.segment_id for row in tables.read_rows(f"{at}/prefilter/sample/rows", Segment)}
        for at in (folder, tmp_path)
    ]
    assert ids[0] == ids[1]
    # The same ratings in another order.
    table = tables.read_table(f"{folder}/prefilter/rated/rows")
    order = random.Random(1).sample(range(len(table)), len(table))
    tables.write_table(str(tmp_path / "prefilter/rated/rows"), table.take(order), "part-0")
    run_stage(tmp_path, stages[3])

    def killed(progress, label, work, items):
        if label == "parts divided":
            raise KeyboardInterrupt
        return run_tasks(progress, label, work, items)

    monkeypatch.setattr(prefilter, "run_tasks", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, stages[4])
    monkeypatch.undo()
    assert run_stage(tmp_path, stages[4]).outcomes == {"kept": 140, "not_promising": 560}
    for name in ("rows", "dropped"):
        rows = [
            {(row.segment_id, row.score)
             for row in tables.read_rows(f"{at}/prefilter/segments/{name}", ScoredSegment)}
            for at in (folder, tmp_path)
        ]  # fmt: skip
        assert rows[0] == rows[1]


@pytest.mark.slow
def test_scores_that_are_all_equal_stop_the_run_in_one_line(filtered, model_folder, tmp_path):
    folder, _, _ = filtered
    stages = stages_on(tmp_path, ["text"], model_folder, "{num_rated: 200}", 1)
    rows = tables.read_rows(f"{folder}/prefilter/rated/rows", RatedPair)
    table = tables.to_table(rows, RatedPair)
    column = table.column_names.index("score")
    flat = table.set_column(column, "score", pa.array([3.0] * len(table)))
    tables.write_table(str(tmp_path / "prefilter/rated/rows"), flat, "part-0")
    with pytest.raises(UserError, match="all 200 pairs of the sample have the score 3") as caught:
        run_stage(tmp_path, stages[3])
    assert "\n" not in str(caught.value)


def test_filter_stages_are_kinds_of_their_own():
    filtered = declared(ON)
    assert [path for path, stage in filtered.items() if type(stage) is Augment] == ["candidates"]
    assert [path for path, stage in filtered.items() if type(stage) is Rate] == [
        "iter-1/rated", "iter-2/rated",
    ]  # fmt: skip
