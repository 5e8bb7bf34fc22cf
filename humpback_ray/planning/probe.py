"""Before paying, on the machines themselves: a sample of a run goes through its stages.

The CPU stages of the run are real and stay. Rows drawn from its segments go through a run of their
own in RUN/_probe, with the same settings and placement but for: one iteration, a few steps of each
training, one engine. `measured` makes the real run's hours out of its records, with an interval.

Trainings that the run itself has finished are not done again: their models generate in the probe.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
from rich.console import Console

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import PretrainedBase, ScratchBase, TrainingSettings
from humpback_ray.errors import UserError
from humpback_ray.execution import runner
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import METRICS, Context, Result, Stage, StageRecord
from humpback_ray.method.tokens import example_ids
from humpback_ray.planning import extrapolate
from humpback_ray.planning.extrapolate import Records, Sample
from humpback_ray.rows import SegmentOutcome
from humpback_ray.serving.requests import ServedModel, load_tokenizer

FOLDER = "_probe"  # in the run's folder
NUM_STEPS = 8  # of a training: the first warms up, the others are measured
BEFORE_GENERATING = ("seed", "base/", "backward/", "forward-0/")
GENERATING = ("candidates", "iter-1/rated", "evaluation/M_0")
# Rows in an engine at once where the placement leaves it open: vLLM's defaults, at most.
MAX_SEQUENCES = {"cpu": 256, "gpu": 1024}


def run(run_folder: str, num_rows: int, console: Console) -> extrapolate.Report:
    """Probe the stages of a run on a sample of its segments; also written to RUN/probe.json.

    Args:
        run_folder: absolute path or URL of a run whose segments are done.
        num_rows: segments to draw; all, where there are fewer.

    Raises:
        UserError: no row, no such run or segments, or what a stage raises.
    """
    if num_rows < 1:
        raise UserError(f"--rows {num_rows}: at least one segment is needed")
    recipe, stages, done = _read_run(run_folder)
    folder = storage.join(run_folder, FOLDER)
    storage.delete(folder)  # what a killed probe has left
    try:
        cut = shortened(recipe)
        cut_stages = pipeline.stages_of(cut)
        _take_over(cut_stages, cut, run_folder, done, num_rows, console)
        records = _run_stages(cut_stages, cut, folder, console)
        sample = _read_sample(cut_stages, cut, folder, records, done)
    finally:
        storage.delete(folder)
    report = extrapolate.Report(
        recipe,
        sample.num_rows,
        sample.num_segments,
        _num_gpus(recipe),
        extrapolate.extrapolate(recipe, {stage.path: stage.kind for stage in stages}, sample),
        _notes(recipe, run_folder, num_rows, sample),
    )
    extrapolate.write(report, run_folder)
    return report


# --- the probe's own run --------------------------------------------------------------------------


def _read_run(run_folder: str) -> tuple[Recipe, list[Stage], Records]:
    """The recipe of a run, its stages, and the records of those that are finished."""
    config = storage.read_json(storage.join(run_folder, "config.json"))
    name = config["name"] if config else "RECIPE"
    command = f"humpback run {name} --run {run_folder} --until segments"
    if config is None:
        raise UserError(f"no run in {run_folder}: make its segments first with `{command}`")
    recipe = Recipe.model_validate(config)
    stages = pipeline.stages_of(recipe)
    found = {stage.path: stage.find(run_folder) for stage in stages}
    done = {path: record for path, (_, record) in found.items()
            if isinstance(record, StageRecord)}  # fmt: skip
    if "segments" not in done:
        raise UserError(f"{run_folder} has no finished segments to draw from: run `{command}`")
    return recipe, stages, done


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with trainings of a few steps and one checkpoint, one iteration and one engine.

    One engine, because the rate of an engine that is full is wanted, and a sample fills one. The
    ratings of hardly trained models are not asked to parse, and all that do are selected.
    """
    settings, placement = recipe.settings, recipe.placement
    changes: dict[str, Any] = {
        "iterations": 1,
        "backward_training": _cut(settings.backward_training),
        "forward_training": _cut(settings.forward_training),
        "rating": settings.rating.model_copy(update={"min_scored_share": 0.0}),
        "selection": settings.selection.model_copy(update={"method": "share", "share": 1.0}),
    }
    if isinstance(settings.base, ScratchBase):
        training = _cut(settings.base.training)
        changes["base"] = settings.base.model_copy(update={"training": training})
    engine = placement.engine.model_copy(
        update={"min_engines": 1, "max_engines": 1, "one_stream": False}
    )
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
    """Fill the probe's folder with drawn segments and with what the run has finished of the rest.

    As runs of the probe's own stages, so that their records say what its later stages expect.
    """
    for stage in cut_stages:
        source = storage.join(run_folder, stage.path)
        if stage.path == "segments":
            rows, random_seed = storage.join(source, "rows"), cut.settings.random_seed
            fill = partial(_draw, source=rows, num_rows=num_rows, random_seed=random_seed)
        elif stage.path in done and stage.path.startswith(BEFORE_GENERATING):
            fill = partial(_copy, source=source, record=done[stage.path])
        else:
            continue
        _take(stage, fill, storage.join(run_folder, FOLDER), cut, console)


def _take(
    stage: Stage,
    fill: Callable[[Context], Result],
    folder: str,
    cut: Recipe,
    console: Console,
) -> None:
    """Make a stage's result in the probe's folder by other means than its own."""
    progress = StageProgress(console, stage.path)
    metrics = Metrics(storage.join(folder, stage.path, METRICS))
    stage.begin(folder)
    result = fill(Context(folder, stage.path, cut.placement, progress, metrics))
    stage.finish(folder, result, 0.0, provenance())


def _draw(context: Context, *, source: str, num_rows: int, random_seed: int) -> Result:
    """Write rows of a table drawn at random, or all; the same ones for the same seed."""
    ids = sorted(tables.id_column(source, "segment_id").to_pylist())
    drawn = pa.array(random.Random(random_seed).sample(ids, min(num_rows, len(ids))))
    batches = [
        batch.filter(pc.is_in(batch["segment_id"], value_set=drawn))
        for batch in tables.scan(source)
    ]
    tables.write_table(context.path("rows"), pa.Table.from_batches(batches), "part-0")
    return Result(len(drawn), {SegmentOutcome.KEPT.value: len(drawn)})


def _copy(context: Context, *, source: str, record: StageRecord) -> Result:
    """Copy what a finished stage has made; a link would not do on an object store."""
    filesystem, path = fsspec.core.url_to_fs(source)
    _, target = fsspec.core.url_to_fs(context.folder)
    filesystem.copy(f"{path}/", f"{target}/", recursive=True)
    return Result(record.num_rows, record.outcomes, record.figures)


def _run_stages(cut_stages: Sequence[Stage], cut: Recipe, folder: str, console: Console) -> Records:
    wanted = ("segments", *BEFORE_GENERATING, *GENERATING)
    only = [stage.path for stage in cut_stages if stage.path.startswith(wanted)]
    records = runner.run(cut_stages, cut, folder, console, only=only)
    # Raters of a few steps may give no score that can be read, and then nothing can be selected.
    if records["iter-1/rated"].outcomes.get("scored"):
        records |= runner.run(cut_stages, cut, folder, console, only=["iter-1/examples"])
    return records


def _read_sample(
    cut_stages: Sequence[Stage], cut: Recipe, folder: str, records: Records, done: Records
) -> Sample:
    trainings = [stage.path for stage in cut_stages if stage.kind == "finetune"]
    rated = ("candidates", "iter-1/rated")
    taken = {path: done[path] for path in done if path.startswith(BEFORE_GENERATING)}
    return Sample(
        records={**records, **taken},
        # Of trainings that the run has finished, these are copies.
        steps={path: _steps(storage.join(folder, path)) for path in trainings if path in records},
        row_errors={path: _row_error(storage.join(folder, path, "rows")) for path in rated},
        web_tokens=_web_tokens(cut, folder),
        num_rows=records["segments"].num_rows,
        num_segments=done["segments"].outcomes[SegmentOutcome.KEPT.value],
        done=done,
    )


def _steps(folder: str) -> list[dict[str, Any]]:
    text = storage.read_text(storage.join(folder, METRICS), "metrics", "--run")
    lines = [json.loads(line) for line in text.splitlines()]
    # Steps that were done again after a failure count once.
    return list({line["step"]: line for line in lines}.values())


def _row_error(folder: str) -> float:
    """Of prompts or answers, whichever differ more: which of them take the time is not known."""
    table = tables.read_table(folder, tables.TOKEN_COLUMNS)
    prompts = pc.subtract(table["num_prompt_tokens"], table["num_cached_tokens"]).to_pylist()
    answers = table["num_generated_tokens"].to_pylist()
    return max(extrapolate.relative_error(prompts), extrapolate.relative_error(answers))


def _web_tokens(cut: Recipe, folder: str) -> float:
    """Mean length of a candidate as a training example, its response cut at `max_length`."""
    settings = cut.settings
    max_length = settings.forward_training.max_length
    trusted = isinstance(settings.base, PretrainedBase) and settings.base.trust_remote_code
    location = storage.join(folder, "forward-0/model")
    model = ServedModel(location, settings.context_length, settings.dtype, trusted)
    tokenizer = load_tokenizer(model)
    table = tables.read_table(storage.join(folder, "candidates/rows"), ["instruction", "response"])
    examples = [
        example_ids(
            tokenizer, row["instruction"], settings.prompts.web_tag, row["response"], max_length
        )
        for row in table.to_pylist()
    ]
    lengths = [len(example.ids) for example in examples if example is not None]
    return statistics.mean(lengths) if lengths else float(max_length)


def _num_gpus(recipe: Recipe) -> int:
    """GPUs that are paid for: the cluster's, or the run's own where the cluster grows for it."""
    engine, training = recipe.placement.engine, recipe.placement.training
    of_engines = engine.max_engines * engine.tensor_parallel_size * engine.pipeline_parallel_size
    return max(
        int(ray.cluster_resources().get("GPU", 0)),
        of_engines if engine.device == "gpu" else 0,
        training.num_workers if training.device == "gpu" else 0,
    )


def _notes(recipe: Recipe, run_folder: str, num_asked: int, sample: Sample) -> list[str]:
    engine, num_rows = recipe.placement.engine, sample.num_rows
    notes = []
    if num_asked > num_rows:
        notes.append(f"--rows {num_asked}: the run has {num_rows} segments; all were taken.")
    num_places = engine.max_num_seqs or MAX_SEQUENCES[engine.device]
    if num_rows < min(2 * num_places, sample.num_segments):
        notes.append(
            f"{num_rows} rows do not keep an engine full, which takes up to {num_places} at once: "
            "generating stages may take less than this. Take --rows "
            f"{min(4 * num_places, sample.num_segments)}."
        )
    if "forward-0/model" not in sample.done:
        notes.append(
            f"The models that generated were trained for up to {NUM_STEPS} steps; finished ones "
            f"may write less or more. After `humpback run {recipe.name} --run {run_folder} "
            "--until forward-0/model` a probe takes the finished ones."
        )
    return notes
