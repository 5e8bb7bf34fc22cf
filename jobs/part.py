"""One part of the method as a Ray job: prepare, finetune, augment, rate or evaluate.

ray job submit --runtime-env jobs/part.yaml -- python jobs/part.py PART RECIPE --run URL

A part runs its own kinds of stages, in the order of the method, up to the first unfinished stage of
another part. A whole run is prepare, finetune, augment, then rate and finetune for each iteration,
then evaluate. Every part may be submitted again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.errors import UserError
from humpback_ray.figures.run_facts import run_folder_of
from humpback_ray.terminal.explained import explained
from humpback_ray.terminal.options import RecipeArgument, RunOption, SetOption
from humpback_ray.terminal.output import console, say

if TYPE_CHECKING:
    from humpback_ray.execution.stage import Stage

PARTS = ("prepare", "finetune", "augment", "rate", "evaluate")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PartArgument = Annotated[
    str, typer.Argument(metavar="PART", help=f"One of {', '.join(PARTS)}.", show_default=False)
]


@app.command(help=__doc__)
@explained
def main(
    part: PartArgument,
    recipe: RecipeArgument,
    run_folder: RunOption = None,
    overrides: SetOption = None,
) -> None:
    if part not in PARTS:
        raise UserError(f"unknown part {part!r}: give one of {', '.join(PARTS)}")
    run_part(part, load_recipe(recipe, overrides), run_folder)


def run_part(part: str, recipe: Recipe, run: str | None) -> None:
    """Run the part's stages that can run now, and name the stages that the others wait for.

    Raises:
        UserError: no stage can run, because unfinished stages of other parts come first.
    """
    from humpback_ray import pipeline
    from humpback_ray.execution import runner

    folder = run_folder_of(run, recipe)
    stages = pipeline.stages_of(recipe)
    ready, waiting = plan_part(part, stages, folder)
    if not ready:
        raise UserError(waiting)
    runner.run(stages, recipe, folder, console, only=ready)
    if waiting:
        say(waiting)


def plan_part(part: str, stages: Sequence[Stage], folder: str) -> tuple[list[str], str]:
    """Paths of the part's stages before the first unfinished stage of another part, and a line.

    The line names the stages that the part's next stage waits for. It is empty if the part has no
    further stage.
    """
    from humpback_ray.execution.stage import State

    ready: list[str] = []
    missing: dict[str, list[str]] = {}
    for stage in stages:
        owner = stage.part
        if owner != part:
            state, _ = stage.find(folder)
            if state is not State.DONE:
                note = " (made under other settings)" if state is State.CHANGED else ""
                missing.setdefault(owner, []).append(stage.path + note)
        elif missing:
            earlier = "; ".join(
                f"jobs/part.py {other}: {', '.join(paths)}" for other, paths in missing.items()
            )
            return ready, f"{stage.path} waits for {earlier}"
        else:
            ready.append(stage.path)
    return ready, ""


if __name__ == "__main__":
    app()
