"""The plan of ablations: the stages of every arm, each stage once, wherever its result lies.

A fingerprint names a result, and a path is no part of it. So an arm takes a stage of the run, or of
an arm before it, in place of a stage with the same fingerprint; only the others get a folder,
RUN/ablations/ARM/STAGE. All arms lie in one run folder, and the runner skips, resumes and refuses
their stages as those of any run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from humpback_ray import pipeline, storage
from humpback_ray.ablations.arms import (
    FIRST_MODEL,
    RUN,
    Arm,
    Group,
    Supply,
    Values,
    arms_of,
    thresholds_of,
)
from humpback_ray.ablations.supply import segments_by_score
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import ABLATIONS, RECORD, STARTED, Begun, Source, Stage, State
from humpback_ray.rows import SeedOutcome
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.seed import Seed

Some = TypeVar("Some", bound=Stage)


@dataclass(frozen=True)
class PlannedArm:
    """An arm with the stages that its result needs, in the order in which they run."""

    arm: Arm
    recipe: Recipe
    stages: tuple[Stage, ...]  # at the paths where their results lie
    evaluation: Evaluate  # of the model that the arm is about
    judgement: Judge | None  # None: no judge is set, or the model is the one that others play

    @property
    def examples(self) -> Stage | Source:
        """The examples that the arm's model is trained on."""
        assert isinstance(self.evaluation.model, Finetune)
        return self.evaluation.model.examples


@dataclass(frozen=True)
class AblationPlan:
    """All arms, the run itself first."""

    recipe_name: str  # as the command line has it
    overrides: tuple[str, ...]
    run_folder: str
    arms: tuple[PlannedArm, ...]
    left_out: tuple[str, ...]
    states: dict[str, State]  # of all stages, by path

    @property
    def to_compute(self) -> list[str]:
        """Paths of all stages that are not done."""
        return [path for path, state in self.states.items() if state is not State.DONE]


def plan_ablations(
    recipe_name: str,
    overrides: Sequence[str],
    run_folder: str,
    groups: Sequence[Group],
    values: Values,
) -> AblationPlan:
    """Find out what the arms have in common with the run and with each other, and what is done.

    Raises:
        UserError: the run is not finished, or the folder cannot be read from here.
    """
    recipe = load_recipe(recipe_name, list(overrides))
    stages = pipeline.stages_of(recipe)
    with storage.explained(run_folder):
        _refuse_unfinished(stages, recipe_name, run_folder)
        supply = _supply(stages, run_folder, thresholds_of(recipe.settings, values))
        chosen = arms_of(groups, recipe.settings, supply, values)
        shared = SharedStages(stages, _results_of_arms(run_folder))
    corpus = next(s for s in (stage.inputs.get("corpus") for stage in stages) if s is not None)
    assert isinstance(corpus, Source)
    planned = [
        _planned(arm, load_recipe(recipe_name, [*overrides, *arm.overrides]), corpus, shared)
        for arm in chosen.arms
    ]
    found = {stage.path: stage for arm in planned for stage in arm.stages}
    with storage.explained(run_folder):
        states = {path: stage.find(run_folder)[0] for path, stage in found.items()}
    return AblationPlan(
        recipe_name, tuple(overrides), run_folder, tuple(planned), tuple(chosen.left_out), states
    )


def owner(path: str) -> str:
    """The arm whose folder a stage lies in, or the run."""
    return path.split("/")[1] if path.startswith(f"{ABLATIONS}/") else RUN.name


def origins(planned: PlannedArm, states: Mapping[str, State]) -> dict[str, list[str]]:
    """An arm's stages by where they come from: another arm or the run, done, or to compute.

    Stages to compute have the name without the arm's folder.
    """
    found: dict[str, list[str]] = {}
    for stage in planned.stages:
        whose, name = owner(stage.path), stage.path.removeprefix(f"{ABLATIONS}/{planned.arm.name}/")
        state = states[stage.path]
        origin = state.value if whose == planned.arm.name else f"{whose}, {state.value}"
        found.setdefault(origin, []).append(name)
    return found


class SharedStages:
    """Stages by fingerprint, each at the path where its result lies or will lie.

    Args:
        stages: of the run.
        stored: paths of results that earlier ablations have left, by fingerprint.
    """

    def __init__(self, stages: Sequence[Stage], stored: dict[str, str]) -> None:
        self._placed: dict[str, Stage] = {}
        for stage in stages:
            self._placed.setdefault(stage.fingerprint, stage)
        self._stored = stored
        self.of_run = tuple(stages)

    def place(self, stage: Some, arm: Arm) -> Some:
        """The stage with the same result that is known, or this one in the arm's folder."""
        known = self._placed.get(stage.fingerprint)
        if known is None:
            new = storage.join(ABLATIONS, arm.name, stage.path)
            inputs = {
                field.name: self.place(value, arm)
                for field in fields(stage)
                if isinstance(value := getattr(stage, field.name), Stage)
            }
            known = replace(stage, path=self._stored.get(stage.fingerprint, new), **inputs)
            assert known.fingerprint == stage.fingerprint, stage.path
            self._placed[stage.fingerprint] = known
        assert isinstance(known, type(stage))
        return known


def _planned(arm: Arm, recipe: Recipe, corpus: Source, shared: SharedStages) -> PlannedArm:
    declared = pipeline.stages_of(recipe, corpus)
    evaluation = _evaluation(declared, arm.model)
    needed = _behind(evaluation)
    placed = [shared.place(stage, arm) for stage in declared if stage.fingerprint in needed]
    compared = shared.place(evaluation, arm)
    judgement = _judgement(declared, compared, arm, shared)
    if judgement:
        placed.append(judgement)
    unique = {stage.path: stage for stage in placed}
    return PlannedArm(arm, recipe, tuple(unique.values()), compared, judgement)


def _judgement(
    declared: Sequence[Stage], evaluation: Evaluate, arm: Arm, shared: SharedStages
) -> Judge | None:
    """The arm's model against the recipe's reference, or against the run's own M_0 without one."""
    judge = next((stage for stage in declared if isinstance(stage, Judge)), None)
    opponent = _evaluation(shared.of_run, FIRST_MODEL)
    if judge is None or (judge.reference is None and evaluation is opponent):
        return None
    evaluations = (evaluation,) if judge.reference else (opponent, evaluation)
    return shared.place(replace(judge, evaluations=evaluations, compared=None, others=()), arm)


def _evaluation(stages: Sequence[Stage], model: str | None) -> Evaluate:
    """The evaluation of a model by its name, or of the last model."""
    evaluations = [stage for stage in stages if isinstance(stage, Evaluate)]
    return next(each for each in reversed(evaluations) if model in (None, each.name))


def _behind(stage: Stage) -> set[str]:
    """Fingerprints of a stage and of everything that its result rests on."""
    found = {stage.fingerprint}
    for each in stage.inputs.values():
        found |= _behind(each) if isinstance(each, Stage) else set()
    return found


# --- what the run folder has ----------------------------------------------------------------------


def _refuse_unfinished(stages: Sequence[Stage], recipe_name: str, run_folder: str) -> None:
    if problems := [line for stage in stages for line in stage.problems]:
        raise UserError(problems[0])
    needed = [stage for stage in stages if not isinstance(stage, Judge)]
    unfinished = [s.path for s in needed if s.find(run_folder)[0] is not State.DONE]
    if unfinished:
        raise UserError(
            f"{len(unfinished)} of {len(needed)} stages of {run_folder} are not done under these "
            f"settings, the first is {unfinished[0]}: arms start from a finished run, so finish it "
            f"with `humpback run {recipe_name} --run {run_folder}` and the same --set"
        )


def _supply(stages: Sequence[Stage], run_folder: str, thresholds: Iterable[float]) -> Supply:
    rated = [stage for stage in stages if isinstance(stage, Rate)][-1]
    seed = next(stage for stage in stages if isinstance(stage, Seed))
    _, record = seed.find(run_folder)
    outcomes = getattr(record, "outcomes", {})
    num_pairs = sum(outcomes.get(each, 0) for each in (SeedOutcome.KEPT, SeedOutcome.SURPLUS))
    rows = storage.join(run_folder, rated.path, "rows")
    return Supply(*segments_by_score(rows, thresholds), num_pairs)


def _results_of_arms(run_folder: str) -> dict[str, str]:
    """Paths of begun and finished stages of earlier ablations, by fingerprint."""
    filesystem, root = storage.locate(storage.join(run_folder, ABLATIONS))
    if not filesystem.exists(root):
        return {}
    found: dict[str, str] = {}
    for file in sorted(filesystem.find(root)):
        folder, _, name = file[len(root) :].strip("/").rpartition("/")
        if name in (RECORD, STARTED):
            begun = storage.read_as(storage.join(run_folder, ABLATIONS, folder, name), Begun)
            if begun:
                found.setdefault(begun.fingerprint, storage.join(ABLATIONS, folder))
    return found
