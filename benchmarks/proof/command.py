"""The proof on one world: make the inputs, run the product, train the control arms, measure."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.proof import arms, web
from benchmarks.proof.measure import measured, of_models, of_rows
from benchmarks.proof.results import write_results
from benchmarks.proof.world import SHORT, Sizes, write_inputs
from humpback_ray import pipeline
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import runner
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import Stage, State

RECIPE = Path(__file__).parent / "recipe.yaml"
SHORT_FORM = (
    "settings.iterations=1", "settings.base.training.num_steps=2700",
    "settings.selection.num_best=200",
)  # fmt: skip
# Expected on two cores, by the beginning of a stage's path; the times of finished stages correct
# what is left. The longest beginning counts.
EXPECTED_SECONDS = {
    "base/model": 1500, "base/": 5, "backward/model": 20, "forward-0/model": 30,
    "candidates": 30, "iter-1/rated": 40, "iter-2/rated": 40, "iter-1/model": 30,
    "iter-2/model": 30, "evaluation/base": 50, "evaluation/": 30, "arms/": 30, "arms/rated": 60,
    "": 2,
}  # fmt: skip
SHORT_SHARE = 0.5  # of those seconds, in the short form
MEASURING_SECONDS = 90
console = Console(highlight=False)


@dataclass
class Clock:
    """The time that a run has left, from what its finished stages have taken."""

    scale: float
    expected: float = 0.0
    taken: float = 0.0

    def seconds_of(self, path: str) -> float:
        longest = max((key for key in EXPECTED_SECONDS if path.startswith(key)), key=len)
        return EXPECTED_SECONDS[longest] * self.scale

    def finish(self, path: str, seconds: float) -> None:
        self.expected += self.seconds_of(path)
        self.taken += seconds

    def minutes_left(self, paths: Sequence[str]) -> float:
        # A machine that is slower in what is done is as much slower in what is left; early stages
        # are too short to say so.
        pace = self.taken / self.expected if self.expected > 60 else 1.0
        left = sum(map(self.seconds_of, paths)) + MEASURING_SECONDS * self.scale
        return left * pace / 60


def main() -> None:
    """Run the command line."""
    options = parser().parse_args()
    try:
        _run(options)
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    command.add_argument("--world-seed", type=int, required=True)
    command.add_argument("--short", action="store_true", help="a smaller world, one iteration")
    arms_of_run = command.add_mutually_exclusive_group()
    arms_of_run.add_argument("--ablations", action="store_true", help="more arms")
    arms_of_run.add_argument("--no-arms", action="store_true", help="the models of the loop alone")
    command.add_argument("--run", metavar="FOLDER", help="default: runs/proof-SEED or -SEED-short")
    command.add_argument("--base-of", metavar="RUN", help="take the base of another run")
    command.add_argument("--set", action="append", default=[], help="settings.a.b=c, repeatable")
    return command


def wanted_arms(options: argparse.Namespace) -> tuple[str, ...]:
    """The arms of a run, in the order in which they are trained."""
    # They would take a short run beyond its twelve minutes.
    core = () if options.short or options.no_arms else arms.CORE
    return core + (arms.ABLATIONS if options.ablations else ())


def _run(options: argparse.Namespace) -> None:
    name = f"proof-{options.world_seed}" + ("-short" if options.short else "")
    folder = Path(options.run or f"runs/{name}").absolute()
    inputs, began = folder / "inputs", time.monotonic()
    if options.base_of:
        copy_base(Path(options.base_of), folder)
    sizes = SHORT if options.short else Sizes()
    world = write_inputs(options.world_seed, sizes, inputs)
    recipe = load_recipe(str(RECIPE), [*_paths(inputs, options), *options.set])
    stages = pipeline.stages_of(recipe)
    wanted = wanted_arms(options)
    further: list[Stage] = []
    if options.ablations:
        further = [*arms.rating_stages(recipe, stages), *arms.tag_stages(recipe, stages)]
    paths = [stage.path for stage in [*stages, *further]] + [
        f"{part}/{arm}{rest}" for arm in wanted
        for part, rest in (("arms", "/model"), ("evaluation", ""))
    ]  # fmt: skip
    clock = Clock(SHORT_SHARE if options.short else 1.0)
    _run_stages(stages, stages, recipe, folder, paths, clock)
    _run_stages(further, [*stages, *further], recipe, folder, paths, clock)
    if wanted:
        pool = arms.read_pool(str(folder), recipe, web.read_truths(inputs / "truths.jsonl"))
        for arm in wanted:
            of_arm = arms.arm_stages(arm, pool, recipe, stages, str(folder))
            _run_stages(of_arm, [*stages, *of_arm], recipe, folder, paths, clock)
    console.print("[proof] measuring against the truth", markup=False)
    run = measured(str(folder), recipe, world, inputs)
    found = {
        "world_seed": options.world_seed,
        "form": "short" if options.short else "long",
        "command": " ".join(["python", *sys.argv]),
        "overrides": options.set,
        "provenance": provenance(),
        **of_rows(run),
        **of_models(run),
        "minutes_of_this_command": round((time.monotonic() - began) / 60, 1),
    }
    (folder / "proof.json").write_text(json.dumps(found, indent=1) + "\n")
    write_results([found], folder, console)


def copy_base(other: Path, folder: Path) -> None:
    """Copy the stages of a base, which the run finds done if its settings and inputs are equal.

    Raises:
        UserError: the other run has no finished base.
    """
    if not (other / "base/model/record.json").exists():
        raise UserError(f"{other} has no finished base (--base-of): let that run finish base/model")
    if not (folder / "base").exists():
        shutil.copytree(other / "base", folder / "base")


def _paths(inputs: Path, options: argparse.Namespace) -> list[str]:
    return [
        f"settings.random_seed={options.world_seed}",
        f"settings.base.text={inputs / 'base_text.jsonl'}",
        f"settings.seed.path={inputs / 'seed.jsonl'}",
        f"settings.seed.ratings={inputs / 'ratings.jsonl'}",
        f"settings.corpus.path={inputs / 'web.warc.gz'}",
        f"settings.evaluation.prompts={inputs / 'questions.json'}",
        *(SHORT_FORM if options.short else ()),
    ]


def _run_stages(
    chosen: Sequence[Stage], stages: Sequence[Stage], recipe: Recipe, folder: Path,
    paths: list[str], clock: Clock,
) -> None:  # fmt: skip
    """Run stages one by one, and say before each how long the rest takes."""
    for stage in chosen:
        state, _ = stage.find(str(folder))
        if state is not State.DONE:
            left = clock.minutes_left(paths)
            console.print(f"[proof] {stage.path}: about {left:.0f} minutes left", markup=False)
        records = runner.run(stages, recipe, str(folder), console, only=[stage.path])
        paths.remove(stage.path)
        if state is not State.DONE:
            clock.finish(stage.path, records[stage.path].seconds)
