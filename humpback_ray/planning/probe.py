"""Measures a run before paying: sends a sample of its segments through its stages.

The probe uses the finished CPU stages of the run. It draws segments and runs them in RUN/_probe,
with the run's settings and placement except for one iteration, a few steps of each training, and
one engine. `extrapolate` turns the records of the probe into the real run's hours.

Models that the run has trained already generate in the probe too; the probe trains the others.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from pydantic import ValidationError
from rich.console import Console

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import (
    LastIterationSettings,
    PretrainedBase,
    ScratchBase,
    TrainingSettings,
)
from humpback_ray.corpus.order_statistics import nth_smallest
from humpback_ray.errors import UserError
from humpback_ray.execution import logs, runner
from humpback_ray.execution.metrics import Metrics, read_metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import METRICS, Context, Result, Stage, StageRecord, State
from humpback_ray.method.prefilter import draw_keys
from humpback_ray.method.tokens import example_ids
from humpback_ray.planning import estimate, extrapolate
from humpback_ray.planning.extrapolate import ProbeReport, Records, Sample
from humpback_ray.rows import RatingOutcome, SegmentOutcome
from humpback_ray.serving.requests import ServedModel, load_tokenizer
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.benchmark import Benchmark
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.generating import GeneratingStage
from humpback_ray.stages.prefilter import PrefilterModel, PromisingSegments
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.segments import Segments

FOLDER = "_probe"  # in the run's folder
STEP_FIGURES = {"step", "tokens_per_second", "seconds", "checkpoint_seconds"}  # that are read
NUM_STEPS = 8  # of a training; the first warms up, the others count
# vLLM's defaults for `max_num_seqs`, at most.
MAX_SEQUENCES = {"cpu": 256, "gpu": 1024}


def probe_run(run_folder: str, num_rows: int, console: Console) -> ProbeReport:
    """Probe the stages of a run on a sample of its segments, and write RUN/probe.json.

    Args:
        run_folder: absolute path or URL of a run with finished segments.
        num_rows: number of segments to draw; a run with fewer gives all of its segments.

    Raises:
        UserError: no row, no run, no finished segments, or a mistake that a stage reports.
    """
    if num_rows < 1:
        raise UserError(f"--rows {num_rows}: at least one segment is needed")
    recipe, stages, done = _read_run(run_folder)
    folder = storage.join(run_folder, FOLDER)
    with storage.explained(run_folder):
        storage.delete(folder)  # left by a killed probe
    try:
        cut = shortened(recipe)
        cut_stages = pipeline.stages_of(cut)
        _take_over(cut_stages, cut, run_folder, done, num_rows, console)
        records = _run_stages(cut_stages, cut, folder, console)
        sample = _read_sample(cut_stages, cut, folder, records, done)
    finally:
        logs.close_run_log()  # it lies in the folder
        storage.delete(folder)
    report = ProbeReport(
        recipe,
        sample.num_rows,
        sample.num_segments,
        _num_gpus(recipe),
        extrapolate.extrapolate(recipe, stages, sample),
        _notes(recipe, stages, run_folder, num_rows, sample),
    )
    with storage.explained(run_folder):
        extrapolate.write(report, run_folder)
    return report


# --- the run in RUN/_probe ------------------------------------------------------------------------


def _read_run(run_folder: str) -> tuple[Recipe, list[Stage], Records]:
    """The recipe of a run, its stages, and the records of the finished ones."""
    with storage.explained(run_folder):
        config = storage.read_as(storage.join(run_folder, "config.json"), dict)
    name = config.get("name", "RECIPE") if config else "RECIPE"
    command = f"humpback run {name} --run {shlex.quote(run_folder)} --until {pipeline.SEGMENTS}"
    if config is None:
        raise UserError(f"no run in {run_folder}: make its segments first with `{command}`")
    try:
        recipe = Recipe.model_validate(config)
    except ValidationError as error:
        raise UserError(
            f"{run_folder}/config.json is not a recipe of this version ({error.error_count()} keys "
            f"or values differ): start the run again with `{command}`"
        ) from error
    stages = pipeline.stages_of(recipe)
    with storage.explained(run_folder):
        states = {stage.path: stage.find(run_folder) for stage in stages}
    done = {path: record for path, (state, record) in states.items()
            if state is State.DONE and isinstance(record, StageRecord)}  # fmt: skip
    if pipeline.SEGMENTS not in done:
        raise UserError(f"{run_folder} has no finished segments to draw from: run `{command}`")
    return recipe, stages, done


def shortened(recipe: Recipe) -> Recipe:
    """Shorten a recipe: few training steps with one checkpoint, one iteration, one engine.

    One engine, because the probe measures a full engine, and a sample fills one. Models after a few
    steps give few scores that parse, so the shortened recipe requires none and selects all. It has
    no filter before augmentation, whose engines do the same work as those after it.
    """
    settings, placement = recipe.settings, recipe.placement
    changes: dict[str, Any] = {
        "iterations": 1,
        "prefilter": None,
        "last_iteration": LastIterationSettings(),
        "backward_training": _cut(settings.backward_training),
        "forward_training": _cut(settings.forward_training),
        "rating": settings.rating.model_copy(
            update={"min_scored_share": 0.0, "min_grade_mass": 0.0, "min_scored_samples": 1}
        ),
        "selection": settings.selection.model_copy(update={"method": "share", "share": 1.0}),
        # Their time does not depend on the segments; `humpback estimate` has a figure.
        "evaluation": settings.evaluation.model_copy(update={"benchmarks": None}),
    }
    if isinstance(settings.base, ScratchBase):
        training = _cut(settings.base.training)
        changes["base"] = settings.base.model_copy(update={"training": training})
    engine = placement.engine.model_copy(update={"min_engines": 1, "max_engines": 1})
    training_placement = placement.training.model_copy(update={"checkpoint_every": NUM_STEPS // 2})
    placed = placement.model_copy(update={"engine": engine, "training": training_placement})
    return recipe.model_copy(
        update={"settings": settings.model_copy(update=changes), "placement": placed}
    )


def _cut(training: TrainingSettings) -> TrainingSettings:
    num_steps = min(training.num_steps or NUM_STEPS, NUM_STEPS)
    return training.model_copy(update={"num_steps": num_steps})


def _take_over(
    cut_stages: Sequence[Stage],
    cut: Recipe,
    run_folder: str,
    done: Records,
    num_rows: int,
    console: Console,
) -> None:
    """Fill the probe's folder with drawn segments and copies of the run's finished stages.

    The probe's stages do it, so that their records have the fingerprints that later stages expect.
    """
    for stage in cut_stages:
        source = storage.join(run_folder, stage.path)
        if isinstance(stage, Segments):
            rows, random_seed = storage.join(source, "rows"), cut.settings.random_seed
            fill = partial(_draw, source=rows, num_rows=num_rows, random_seed=random_seed)
        elif _is_taken_over(stage, done):
            fill = partial(_copy, source=source, record=done[stage.path])
        else:
            continue
        _fill(stage, fill, storage.join(run_folder, FOLDER), cut, console)


def _is_taken_over(stage: Stage, done: Records) -> bool:
    """True for a finished stage before the first generation, except for the segments."""
    is_before = not isinstance(stage, Segments) and not _follows(stage, GeneratingStage)
    return is_before and stage.path in done


def _fill(
    stage: Stage,
    fill: Callable[[Context], Result],
    folder: str,
    cut: Recipe,
    console: Console,
) -> None:
    """Finish a stage in the probe's folder with the result of `fill`, without running it."""
    progress = StageProgress(console, stage.path)
    metrics = Metrics(storage.join(folder, stage.path, METRICS))
    stage.begin(folder)
    result = fill(Context(folder, stage.path, cut.placement, progress, metrics))
    stage.finish(folder, result, 0.0, provenance())


def _draw(context: Context, *, source: str, num_rows: int, random_seed: int) -> Result:
    """Draw rows of a table at random, the same ones for the same seed, and write them."""

    def keys_of(batch: pa.RecordBatch) -> np.ndarray:
        return draw_keys(batch["segment_id"].to_pylist(), random_seed)

    def keys() -> Iterator[np.ndarray]:
        return (keys_of(batch)[:, None] for batch in tables.scan(source, ["segment_id"]))

    edge = nth_smallest(keys, min(num_rows, tables.num_rows(source)) - 1)[0]
    drawn = pa.Table.from_batches(
        batch.filter(pa.array(keys_of(batch) <= edge)) for batch in tables.scan(source)
    )
    tables.write_table(context.path("rows"), drawn, "part-0")
    return Result(len(drawn), {SegmentOutcome.KEPT.value: len(drawn)})


def _copy(context: Context, *, source: str, record: StageRecord) -> Result:
    """Copy the folder of a finished stage, because object stores have no links."""
    filesystem, path = storage.locate(source)
    _, target = storage.locate(context.folder)
    filesystem.copy(f"{path}/", f"{target}/", recursive=True)
    return Result(record.num_rows, record.outcomes, record.figures)


def _follows(stage: Stage, kind: type[Stage]) -> bool:
    """True if the stage, or one whose result it needs, is of this class."""
    origins = [origin for origin in stage.inputs.values() if isinstance(origin, Stage)]
    return isinstance(stage, kind) or any(_follows(origin, kind) for origin in origins)


def _run_stages(cut_stages: Sequence[Stage], cut: Recipe, folder: str, console: Console) -> Records:
    """Run the stages up to the first rating, the evaluation of M_0, and the selection."""
    first = [stage for stage in cut_stages if not _follows(stage, Curate)]
    # All models cost alike, so one evaluation is enough: the last one, that of M_0.
    last: dict[type[Stage], Stage] = {
        type(stage): stage for stage in first if isinstance(stage, GeneratingStage)
    }
    only = [stage.path for stage in first if last.get(type(stage), stage) is stage]
    records = runner.run(cut_stages, cut, folder, console, only=only)
    # Raters of a few steps may give no score that parses; then there is nothing to select from.
    curate = next(stage for stage in cut_stages if isinstance(stage, Curate))
    if records[curate.rated.path].outcomes.get(RatingOutcome.SCORED.value):
        records |= runner.run(cut_stages, cut, folder, console, only=[curate.path])
    return records


def _read_sample(
    cut_stages: Sequence[Stage], cut: Recipe, folder: str, records: Records, done: Records
) -> Sample:
    trainings = [stage.path for stage in cut_stages if isinstance(stage, Finetune)]
    rated = [stage.path for stage in cut_stages if isinstance(stage, Augment | Rate)]
    taken = {stage.path: done[stage.path] for stage in cut_stages if _is_taken_over(stage, done)}
    return Sample(
        records={**records, **taken},
        # The steps of trainings that the run has finished come from the copies.
        steps={path: _steps(storage.join(folder, path)) for path in trainings if path in records},
        row_errors={path: _row_error(storage.join(folder, path, "rows")) for path in rated},
        web_tokens=_web_tokens(cut_stages, cut, folder),
        num_rows=records[pipeline.SEGMENTS].num_rows,
        num_segments=done[pipeline.SEGMENTS].outcomes[SegmentOutcome.KEPT.value],
        done=done,
    )


def _steps(folder: str) -> list[dict[str, Any]]:
    read = read_metrics(storage.join(folder, METRICS))
    lines = [line for line in read.lines if line.keys() >= STEP_FIGURES]
    if not lines:
        raise UserError(
            f"{storage.join(folder, METRICS)} has no step with its times "
            f"({read.problem or 'it is empty'}): train the model again, or put a copy back"
        )
    # A step that a failure made the training repeat counts once.
    return list({line["step"]: line for line in lines}.values())


def _row_error(folder: str) -> float:
    """The larger error of prompt and answer tokens, because either may dominate the time."""
    table = tables.read_table(folder, tables.TOKEN_COLUMNS)
    prompts = pc.subtract(table["num_prompt_tokens"], table["num_cached_tokens"]).to_pylist()
    answers = table["num_generated_tokens"].to_pylist()
    return max(extrapolate.relative_error(prompts), extrapolate.relative_error(answers))


def _web_tokens(cut_stages: Sequence[Stage], cut: Recipe, folder: str) -> float:
    """Mean length of a candidate as a training example, its response cut at `max_length`."""
    settings = cut.settings
    max_length = settings.forward_training.max_length
    trusted = isinstance(settings.base, PretrainedBase) and settings.base.trust_remote_code
    tokenized, _ = estimate.seed_model(cut_stages)
    candidates = next(stage for stage in cut_stages if isinstance(stage, Augment))
    location = storage.join(folder, tokenized.path)
    model = ServedModel(location, settings.context_length, settings.dtype, trusted)
    tokenizer = load_tokenizer(model)
    rows = storage.join(folder, candidates.path, "rows")
    table = tables.read_table(rows, ["instruction", "response"])
    examples = [
        example_ids(
            tokenizer, row["instruction"], settings.prompts.web_tag, row["response"], max_length
        )
        for row in table.to_pylist()
    ]
    lengths = [len(example.ids) for example in examples if example is not None]
    return statistics.mean(lengths) if lengths else float(max_length)


def _num_gpus(recipe: Recipe) -> int:
    """GPUs that are paid for: the cluster's, or the run's where the cluster grows for it."""
    engine, training = recipe.placement.engine, recipe.placement.training
    of_engines = engine.max_engines * engine.tensor_parallel_size * engine.pipeline_parallel_size
    return max(
        int(ray.cluster_resources().get("GPU", 0)),
        of_engines if engine.device == "gpu" else 0,
        training.num_workers if training.device == "gpu" else 0,
    )


def _notes(
    recipe: Recipe, stages: Sequence[Stage], run_folder: str, num_wanted: int, sample: Sample
) -> list[str]:
    engine, num_rows = recipe.placement.engine, sample.num_rows
    notes = []
    if num_wanted > num_rows:
        notes.append(f"--rows {num_wanted}: the run has {num_rows} segments; all were taken.")
    num_places = engine.max_num_seqs or MAX_SEQUENCES[engine.device]
    if num_rows < min(2 * num_places, sample.num_segments):
        notes.append(
            f"{num_rows} rows do not keep an engine full, which takes up to {num_places} at once: "
            "generating stages may take less than this. Take --rows "
            f"{min(4 * num_places, sample.num_segments)}."
        )
    seed_model, _ = estimate.seed_model(stages)
    if seed_model.path not in sample.done:
        notes.append(
            f"The models that generated were trained for up to {NUM_STEPS} steps; finished ones "
            f"may write less or more. After `humpback run {recipe.name} --run "
            f"{shlex.quote(run_folder)} --until {seed_model.path}` a probe takes the finished ones."
        )
    unmeasured = [
        stage.path
        for stage in stages
        if isinstance(
            stage, GeneratingStage | Finetune | Benchmark | PrefilterModel | PromisingSegments
        )
        and stage.path not in sample.done
        and extrapolate.stand_in(stage, stages, sample.records) is None
    ]
    if unmeasured:
        notes.append(f"Not measured, and counted as nothing: {', '.join(unmeasured)}.")
    return notes
