"""The models of a run that can be published, and the iterations whose examples can."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from humpback_ray.errors import UserError
from humpback_ray.figures.run_facts import StageState
from humpback_ray.figures.types import RunFigures, StageFigures
from humpback_ray.rows import Origin

BACKWARD = "M_yx"
_NAMED = {"backward/model": BACKWARD, "forward-0/model": "M_0"}
_OF_ITERATION = re.compile(r"iter-(\d+)/(model|examples)")


@dataclass(frozen=True)
class RunModel:
    """A trained model of a run."""

    name: str  # M_yx, M_0, M_1, ...
    stage: StageFigures
    examples: Mapping[str, int]  # training examples by origin

    @property
    def has_web_pairs(self) -> bool:
        """True if the model was trained on pairs with texts of the corpus."""
        return self.examples.get(Origin.WEB, 0) > 0


def chosen_models(figures: RunFigures, names: Sequence[str]) -> list[RunModel]:
    """The finished models with these names; without names M_0 and every M_t of the run.

    Raises:
        UserError: a name that the run does not have, or a model that is not finished.
    """
    trainings = {name: s for s in figures.stages if (name := _name_of(s.path))}
    unknown = [name for name in names if name not in trainings]
    if unknown:
        known = ", ".join(trainings) or "none"
        raise UserError(
            f"the run {figures.run} has no model {unknown[0]} (--models): it has {known}"
        )
    chosen = list(names) or [name for name in trainings if name != BACKWARD]
    finished = [name for name in chosen if trainings[name].state == StageState.DONE]
    if not chosen or finished != chosen:
        missing = next((name for name in chosen if name not in finished), "model")
        ready = ",".join(name for name in trainings if trainings[name].state == StageState.DONE)
        raise UserError(
            f"the run {figures.run} has no finished {missing}: finish it with `humpback run`"
            + (f", or push what is finished with --models {ready}" if ready else "")
        )
    return [_model(figures, name, trainings[name]) for name in chosen]


def finished_examples(figures: RunFigures) -> dict[int, StageFigures]:
    """The examples of each iteration that has selected its pairs, by the iteration's number."""
    found = {}
    for stage in figures.stages:
        match = _OF_ITERATION.fullmatch(stage.path)
        if match and match[2] == "examples" and stage.state == StageState.DONE:
            found[int(match[1])] = stage
    return found


def _name_of(path: str) -> str:
    """The model of a training, as evaluations name it; empty for every other stage."""
    match = _OF_ITERATION.fullmatch(path)
    if match and match[2] == "model":
        return f"M_{match[1]}"
    return _NAMED.get(path, "")


def _model(figures: RunFigures, name: str, stage: StageFigures) -> RunModel:
    examples = next((s for s in figures.stages if s.path == stage.inputs.get("examples")), None)
    return RunModel(name, stage, examples.outcomes if examples else {})
