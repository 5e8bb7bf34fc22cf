"""A short run that can be killed: `python -m tests.support.stored_run RUN SOURCES COUNTER`.

Seed, segments and candidates as the command line walks over them, with a scripted engine. The same
command again goes on. SOURCES is a folder with `model` and `corpus`.
"""

from __future__ import annotations

from functools import partial

import typer

from humpback_ray import cli, pipeline, runner, storage
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import LongPromptSettings, SamplingSettings
from humpback_ray.execution.stage import Stage
from humpback_ray.serving.requests import ServedModel
from humpback_ray.stages import augment
from tests.support.scripted_engine import ScriptedEngine

PLACEMENT = ["engine.rows_per_batch=8", "engine.max_concurrent_batches=2", "engine.max_num_seqs=8",
             "cluster.local_cpus=4"]  # fmt: skip


@cli.explained
def main(run: str, sources: str, counter: str) -> None:
    """Walk over the stages."""
    recipe = load_recipe(
        "tiny",
        [f"settings.corpus.path={sources}/corpus", *(f"placement.{line}" for line in PLACEMENT)],
    )
    seed, segmented = pipeline.stages_of(recipe, run)[:2]
    work = augment.candidates_of(
        storage.join(run, segmented.path, "rows"), target=storage.join(run, "candidates", "rows"),
        backward_model=ServedModel(f"{sources}/model", 1024, "float32"), tag="A tag.",
        sampling=SamplingSettings(max_tokens=32), num_candidates=1,
        long_prompts=LongPromptSettings(), random_seed=0,
        make_engine=partial(ScriptedEngine, counter=counter, seconds_per_row=0.3),
    )  # fmt: skip
    candidates = Stage(
        "candidates", "augment", 1, {}, {"segments": segmented},
        partial(augment.run, work=work, rating=None, begin_rating=None),
    )  # fmt: skip
    runner.walk([seed, segmented, candidates], recipe, run, cli.console)


if __name__ == "__main__":
    typer.run(main)
