"""A short run that can be killed: `python -m tests.support.stored_run RUN SOURCES COUNTER`.

It makes seed, segments and candidates as the command line does, with a scripted engine. The same
command again resumes it. SOURCES is a folder with `model` and `corpus`.
"""

from __future__ import annotations

from functools import partial

import typer

from humpback_ray import pipeline
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import AugmentationSettings, LongPromptSettings
from humpback_ray.execution import runner
from humpback_ray.execution.stage import Source
from humpback_ray.stages.augment import Augment
from humpback_ray.terminal.explained import explained
from humpback_ray.terminal.output import console
from tests.support.scripted_engine import ScriptedEngine

PLACEMENT = ["engine.rows_per_batch=8", "engine.max_concurrent_batches=2", "engine.max_num_seqs=8",
             "cluster.local_cpus=4"]  # fmt: skip


@explained
def main(run: str, sources: str, counter: str) -> None:
    """Walk over the stages."""
    recipe = load_recipe(
        "tiny",
        [f"settings.corpus.path={sources}/corpus", *(f"placement.{line}" for line in PLACEMENT)],
    )
    seed, segments = pipeline.stages_of(recipe)[:2]
    candidates = Augment(
        path="candidates", segments=segments, model=Source(f"{sources}/model", "model"),
        tag="A tag.", sampling=AugmentationSettings(max_tokens=32), num_candidates=1,
        long_prompts=LongPromptSettings(), context_length=1024, dtype="float32", random_seed=0,
    )  # fmt: skip
    make_engine = partial(ScriptedEngine, counter=counter, seconds_per_row=0.3)
    stages = [seed, segments, candidates]
    runner.run(stages, recipe, run, console, make_engine=make_engine)


if __name__ == "__main__":
    typer.run(main)
