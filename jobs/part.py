"""What the jobs that run a part of the method share; it is not submitted itself.

A job runs its own kinds of stages, in the order of the method, up to the first stage of another
job that is not done. So the parts of a whole run are: prepare, finetune, augment, then rate and
finetune for each iteration, evaluate. Each may be submitted again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from humpback_ray import cli
from humpback_ray.config.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from humpback_ray.execution.stage import Stage


def main(job: str, description: str | None) -> None:
    """Run a job's stages from the command line, with the exit codes of `humpback`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=description)
    @cli.explained
    def command(
        recipe: cli.RecipeArgument, run: cli.RunOption = None, set: cli.SetOption = None
    ) -> None:
        run_part(job, load_recipe(recipe, set), run)

    app()


def run_part(job: str, recipe: Recipe, run: str | None) -> None:
    """Run the job's stages that can run now, and say what the others wait for.

    Raises:
        ValueError: none can, because stages of other jobs come first.
    """
    from humpback_ray import pipeline
    from humpback_ray.execution import runner

    folder = cli.run_folder_of(run, recipe)
    stages = pipeline.stages_of(recipe)
    ready, waiting = plan_part(job, stages, folder)
    if not ready:
        raise ValueError(waiting)
    runner.run(stages, recipe, folder, cli.console, only=ready)
    if waiting:
        cli.console.print(waiting, markup=False, highlight=False, soft_wrap=True)


def plan_part(job: str, stages: Sequence[Stage], folder: str) -> tuple[list[str], str]:
    """Paths of the job's stages before the first unfinished one of another job, and a line that
    says what the job's next stage waits for (empty when the job has no further stage)."""
    from humpback_ray.execution.stage import State

    ready: list[str] = []
    missing: dict[str, list[str]] = {}
    for stage in stages:
        owner = stage.part
        if owner != job:
            state, _ = stage.find(folder)
            if state is not State.DONE:
                note = " (made under other settings)" if state is State.CHANGED else ""
                missing.setdefault(owner, []).append(stage.path + note)
        elif missing:
            earlier = "; ".join(f"jobs/{job}.py: {', '.join(m)}" for job, m in missing.items())
            return ready, f"{stage.path} waits for {earlier}"
        else:
            ready.append(stage.path)
    return ready, ""
