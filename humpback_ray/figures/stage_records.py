"""The stages of a run as their records tell them, whatever version of the program wrote them.

Fingerprints link the stages: a record names those of its inputs. A run that an older version made
has the same links, so nothing here needs its recipe to be one of today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import humpback_ray.pipeline  # noqa: F401  it loads every kind of stage
from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.execution.runner import SET_ASIDE
from humpback_ray.execution.stage import RECORD, STARTED, Stage, read_record
from humpback_ray.figures.run_facts import RunFacts, StageState
from humpback_ray.figures.types import StageFigures
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.rate import Rate


def _versions(base: type[Stage] = Stage) -> dict[str, int]:
    """The versions of all kinds of stages; importing the pipeline has loaded their classes."""
    found = {}
    for each in base.__subclasses__():
        if "kind" in vars(each) and each.__module__.startswith("humpback_ray."):
            found[each.kind] = each.version
        found |= _versions(each)
    return found


def count_of(stage: StageFigures, name: str) -> int:
    """A count among the figures of a finished stage's record.

    Raises:
        UserError: the record has none, so another version of the program wrote it.
    """
    try:
        return int(stage.figures[name])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the record of {stage.path} has no count {name}: another version of this program "
            "wrote it"
        ) from error


@dataclass(frozen=True)
class Selected:
    """One iteration: its rating, and the selection and the training after it if they are done."""

    iteration: int
    rated: StageFigures
    curated: StageFigures | None
    trained: StageFigures | None


class StageRecords:
    """The finished stages of a run, and the links between them.

    Args:
        stages: of the run, in its order, unfinished ones among them.
    """

    def __init__(self, run_folder: str, stages: Iterable[StageFigures]) -> None:
        self.run_folder = run_folder
        self.stages = list(stages)
        self._done = [stage for stage in self.stages if stage.num_rows is not None]
        self._paths = {stage.fingerprint: stage.path for stage in self._done}

    def of(self, kind: type[Stage]) -> list[StageFigures]:
        """The finished stages of a kind, in the run's order."""
        return [stage for stage in self._done if stage.kind == kind.kind]

    def first(self, kind: type[Stage]) -> StageFigures | None:
        """The first finished stage of a kind."""
        return next(iter(self.of(kind)), None)

    def folder(self, stage: StageFigures, *parts: str) -> str:
        """A folder in a stage's folder."""
        return storage.join(self.run_folder, stage.path, *parts)

    def reading(self, stage: StageFigures, kind: type[Stage]) -> StageFigures | None:
        """The first finished stage of a kind that reads this stage's result."""
        return next((s for s in self.of(kind) if stage.path in s.inputs.values()), None)

    def iterations(self) -> Iterator[Selected]:
        """The iterations of self-curation that have a finished rating."""
        for number, rated in enumerate(self.of(Rate), start=1):
            curated = self.reading(rated, Curate)
            trained = curated and self.reading(curated, Finetune)
            yield Selected(number, rated, curated, trained)

    def model_names(self) -> dict[str, str]:
        """Names of models, as evaluations call them, by the path of the stage that made them."""
        return {
            path: str(stage.settings.get("name", ""))
            for stage in self.of(Evaluate)
            if (path := stage.inputs.get("model", ""))
        }

    def linked(self) -> list[StageFigures]:
        """All stages, with the paths of stages in place of their inputs' fingerprints."""
        return [
            replace(
                stage,
                inputs={name: self._paths.get(i, i) for name, i in stage.inputs.items()},
            )
            for stage in self.stages
        ]


def read_stages(run_folder: str, facts: RunFacts) -> tuple[StageRecords, list[str]]:
    """The stages of a run, and a line for each record that this program cannot read."""
    stages = [
        _stage(run_folder, stage.stage, stage.state)
        for stage in facts.stages
        if not stage.stage.startswith(f"{SET_ASIDE}/")
    ]
    problems = [
        f"{stage.path}/{RECORD} is of another version of this program and left out"
        for stage in stages
        if stage.state == StageState.UNREADABLE
    ]
    linked = StageRecords(run_folder, stages).linked()
    return StageRecords(run_folder, linked), problems


def _stage(run_folder: str, path: str, state: StageState) -> StageFigures:
    folder = storage.join(run_folder, path)
    if state is not StageState.DONE:
        mark = storage.read_json(storage.join(folder, STARTED)) or {}
        return _begun(path, state, mark)
    content = storage.read_json(storage.join(folder, RECORD))
    record = read_record(folder)
    assert record is not None, folder
    return replace(
        _begun(path, state, content),
        num_rows=record.num_rows,
        outcomes=record.outcomes,
        seconds=record.seconds,
        figures=record.figures,
        provenance=record.provenance,
        finished_at=record.provenance["finished_at"],
    )


def _begun(path: str, state: StageState, content: Mapping[str, Any]) -> StageFigures:
    identity = content.get("identity") or {}
    kind = str(identity.get("kind", ""))
    return StageFigures(
        path,
        kind,
        state.value,
        str(content.get("fingerprint", "")),
        dict(identity.get("inputs") or {}),
        identity.get("version"),
        _versions().get(kind),
        settings=dict(identity.get("settings") or {}),
    )
