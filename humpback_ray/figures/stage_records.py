"""The stages of a run as their records tell them, whatever version of the program wrote them.

Fingerprints link the stages: a record names those of its inputs. A run that an older version made
has the same links, so nothing here needs its recipe to be one of today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import humpback_ray.pipeline  # noqa: F401  it loads every kind of stage
from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.execution.runner import SET_ASIDE
from humpback_ray.execution.stage import RECORD, STARTED, Stage, StageRecord, read_mark, read_record
from humpback_ray.figures.record_figures import readable_figures, readable_provenance
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
        UserError: the record has none.
    """
    count = stage.figures.get(name)
    if count is None:
        raise UserError(
            f"the record of {stage.path} has no count {name}: it is damaged, or another version of "
            "this program wrote it"
        )
    return int(count)


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
        self.problems: list[str] = []  # of single stages, whose figures are left out

    def note(self, problem: str) -> None:
        """Keep a problem for people, once; an empty one is none."""
        if problem and problem not in self.problems:
            self.problems.append(problem)

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Note the UserError of one stage's files, so that the figures of the others are shown."""
        try:
            yield
        except UserError as error:
            self.note(str(error))

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


@dataclass(frozen=True)
class _Identity:
    """The identity of a stage as its record or mark has it."""

    kind: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]


def read_stages(run_folder: str, facts: RunFacts) -> StageRecords:
    """The stages of a run; what cannot be read of them is left out and stands in `problems`."""
    problems: list[str] = []
    stages = [
        _stage(run_folder, stage.stage, stage.state, problems)
        for stage in facts.stages
        if not stage.stage.startswith(f"{SET_ASIDE}/")
    ]
    records = StageRecords(run_folder, StageRecords(run_folder, stages).linked())
    for problem in (*facts.problems, *problems):
        records.note(problem)
    return records


def _stage(run_folder: str, path: str, state: StageState, problems: list[str]) -> StageFigures:
    folder = storage.join(run_folder, path)
    if state in (StageState.UNREADABLE, StageState.TO_DO):
        return StageFigures(path, "", state.value)
    record = read_record(folder) if state is StageState.DONE else None
    begun = record or read_mark(folder)
    if begun is None:  # another process has changed the folder meanwhile
        return StageFigures(path, "", state.value)
    try:
        place = f"the identity in {storage.join(folder, RECORD if record else STARTED)}"
        identity = storage.as_type(begun.identity, _Identity, place)
    except UserError as error:
        problems.append(str(error))
        return StageFigures(path, "", StageState.UNREADABLE.value)
    stage = StageFigures(
        path,
        identity.kind,
        state.value,
        begun.fingerprint,
        identity.inputs,
        identity.version,
        _versions().get(identity.kind),
        settings=identity.settings,
    )
    return _finished(stage, record, problems) if record else stage


def _finished(stage: StageFigures, record: StageRecord, problems: list[str]) -> StageFigures:
    figures, damage = readable_figures(stage.kind, record.figures)
    provenance, damage_of_provenance = readable_provenance(record.provenance)
    for part, what in (("figures", damage), ("provenance", damage_of_provenance)):
        if what:
            problems.append(f"{stage.path}/{RECORD}, {part}: {what}: left out")
    return replace(
        stage,
        num_rows=record.num_rows,
        outcomes=record.outcomes,
        seconds=record.seconds,
        figures=figures,
        provenance=provenance,
        finished_at=record.finished_at,
    )
