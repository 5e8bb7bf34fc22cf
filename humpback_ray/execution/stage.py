"""A stage: its fields decide its result, its fingerprint hashes them, its record marks it done.

A subclass declares one kind of stage once. Its fields are the identity: settings as values, other
stages and sources as inputs. Fields marked with `NOT_HASHED` change only the place or the way it
runs, or files that `refresh` rewrites. `run` reads fields and placement only, so its result cannot
depend on anything that the fingerprint misses.

No path, host, time or library version enters a fingerprint, so a user may move a run, resume it
elsewhere, and change its placement. `finish` writes `record.json` last and atomically, so a stage
with a record is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from humpback_ray import storage
from humpback_ray.config.fields import Frozen
from humpback_ray.config.placement import Placement
from humpback_ray.execution import clock
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress

RECORD = "record.json"
STARTED = "started.json"
METRICS = "metrics.jsonl"
PROGRESS = "progress.json"  # while the stage runs
ABLATIONS = "ablations"  # folder below the run's, for stages of other settings than the run's

NOT_HASHED = {"hashed": False}  # metadata of a field that is not part of the identity

# Parts of a run that a separate job can run.
Part = Literal["prepare", "finetune", "augment", "rate", "evaluate"]


class State(StrEnum):
    """The state of a stage's folder."""

    DONE = "done"  # a record with the same fingerprint
    STARTED = "started"  # begun under the same fingerprint and not finished, so resumable
    TO_DO = "to do"
    CHANGED = "changed"  # begun or finished under other settings or inputs


@dataclass(frozen=True)
class Source:
    """An input from outside of the run: a corpus, a seed file, a base model.

    `identity` hashes the content, so the same data at another location is the same source. It is
    None if the location has nothing usable; `problem` then gives the reason in one line.
    """

    location: str  # of several places, all of them for people
    identity: str | None
    revision: str | None = None  # of a model on the Hugging Face hub
    problem: str = ""
    several: tuple[str, ...] = ()  # places that are one source together

    @property
    def places(self) -> tuple[str, ...]:
        """The location, or each of several."""
        return self.several or (self.location,)

    @property
    def fingerprint(self) -> str:
        return fingerprint({"source": self.identity})


@dataclass(frozen=True)
class Context:
    """The surroundings of a running stage: its folder, its placement, and its reports."""

    run_folder: str
    stage: str  # path of the stage below the run's folder: its name in logs, metrics, dashboards
    placement: Placement
    progress: StageProgress
    metrics: Metrics
    make_engine: Callable[..., Any] | None = None  # builds an engine; None: vLLM's

    @property
    def folder(self) -> str:
        """The stage's folder."""
        return storage.join(self.run_folder, self.stage)

    @property
    def run(self) -> str:
        """Name of the run, for people who watch several at a time."""
        return storage.name(self.run_folder)

    def path(self, *parts: str) -> str:
        """A path in the stage's folder."""
        return storage.join(self.folder, *parts)

    def of(self, origin: Stage | Source, *parts: str) -> str:
        """A path in another stage's folder, or a source's location."""
        if isinstance(origin, Source):
            return origin.location
        return storage.join(self.run_folder, origin.path, *parts)


@dataclass(frozen=True)
class Result:
    """The counts and figures of a stage's result. Outcomes add up to `num_rows`."""

    num_rows: int
    outcomes: Mapping[str, int]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(self.outcomes.values()) == self.num_rows, (self.num_rows, dict(self.outcomes))


@dataclass(frozen=True)
class Begun:
    """The mark of a begun stage: its identity at the time it began."""

    fingerprint: str
    identity: dict[str, Any]


@dataclass(frozen=True)
class StageRecord(Begun):
    """The content of a finished stage's `record.json`."""

    num_rows: NonNegativeInt
    outcomes: dict[str, NonNegativeInt]
    figures: dict[str, Any]
    seconds: NonNegativeFloat
    provenance: dict[str, Any]

    @property
    def finished_at(self) -> str:
        """The time in UTC; empty where the provenance has none."""
        time = self.provenance.get("finished_at")
        return str(time) if clock.parse_time(time) else ""

    @property
    def counts(self) -> str:
        """Rows and outcomes in one line."""
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return f"{self.num_rows} rows ({outcomes})"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the method. A subclass adds its fields, class variables and `run`."""

    kind: ClassVar[str]
    version: ClassVar[int]  # raise it by hand when the meaning of the code changes
    part: ClassVar[Part]
    # True if no other stage reads the result; under other settings the runner sets it aside.
    is_replaceable: ClassVar[bool] = False

    path: str = field(metadata=NOT_HASHED)  # below the run's folder; slashes nest

    @property
    def uses_engines(self) -> bool:
        """True if the stage generates on engines."""
        return False

    @property
    def uses_workers(self) -> bool:
        """True if the stage trains on training workers."""
        return False

    def check(self, placement: Placement) -> None:
        """Refuse, before any work, what this stage would meet only after the others' hours.

        Raises:
            UserError: something that the stage needs is not there.
        """

    def run(self, context: Context) -> Result:
        """Write the result, or the missing rest of it, into the stage's folder."""
        raise NotImplementedError

    def refresh(self, context: Context, figures: Mapping[str, Any]) -> None:
        """Rewrite cheap files that no fingerprint covers, if their content differs.

        Args:
            context: as `run` has it.
            figures: those of the stage's result.
        """

    def wording(self) -> dict[str, str]:
        """Texts in the code on which the result depends, by name, for the fingerprint."""
        return {}

    def unread(self) -> set[str]:
        """Names of fields that the stage does not read under its settings, left out of the hash."""
        return set()

    @cached_property
    def inputs(self) -> dict[str, Stage | Source]:
        """Stages and sources that the stage reads, by the names of their fields."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, Stage | Source)}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of the fingerprint."""
        left_out = self.inputs.keys() | self.unread()
        values = {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.metadata.get("hashed", True) and f.name not in left_out
        }
        # A section of the recipe stands beside the other fields, so messages name its keys.
        parts = [values.pop("settings", {}), values, self.wording()]
        settings = {name: value for part in parts for name, value in part.items()}
        assert len(settings) == sum(map(len, parts)), "two values of one name"
        return {
            "kind": self.kind,
            "version": self.version,
            "settings": settings,
            "inputs": {name: source.fingerprint for name, source in self.inputs.items()},
        }

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """A line for each unusable source behind this stage; empty if the identity is known."""
        problems: dict[str, None] = {}
        for source in self.inputs.values():
            lines = source.problems if isinstance(source, Stage) else (source.problem,)
            problems |= dict.fromkeys(line for line in lines if line)
        return tuple(problems)

    def find(self, run_folder: str) -> tuple[State, StageRecord | Begun | None]:
        """The state of this stage in a run; with its record if done, with its mark if changed."""
        folder = storage.join(run_folder, self.path)
        record = read_record(folder)
        begun = record or read_mark(folder)
        if begun is None:
            return State.TO_DO, None
        if begun.fingerprint != self.fingerprint:
            return State.CHANGED, begun
        return (State.DONE if record else State.STARTED), record

    def differences(self, begun: Begun) -> list[str]:
        """The fields that differ between a folder's stage and this one, `name: old → new`."""
        # As JSON, because that is what the folder holds: a tuple is a list there.
        old, new = _flat(begun.identity), _flat(json.loads(json.dumps(self.identity)))
        return [
            f"{name}: {_short(old.get(name))} → {_short(new.get(name))}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]

    def begin(self, run_folder: str) -> None:
        """Mark the stage's folder as begun under this fingerprint."""
        mark = storage.join(run_folder, self.path, STARTED)
        if not storage.exists(mark):
            storage.write_json(mark, {"fingerprint": self.fingerprint, "identity": self.identity})

    def finish(self, run_folder: str, result: Result, seconds: float, ran: dict[str, Any]) -> None:
        """Write the record and remove the files of an unfinished stage."""
        record = StageRecord(
            self.fingerprint,
            self.identity,
            result.num_rows,
            dict(result.outcomes),
            dict(result.figures),
            round(seconds, 1),
            ran,
        )
        folder = storage.join(run_folder, self.path)
        storage.write_json(storage.join(folder, RECORD), asdict(record))
        storage.delete(storage.join(folder, STARTED))
        storage.delete(storage.join(folder, PROGRESS))


def read_record(folder: str) -> StageRecord | None:
    """The record of a stage's folder; None where the stage is not done.

    Raises:
        UserError: the record is damaged, or another version of the program wrote it.
    """
    return storage.read_as(storage.join(folder, RECORD), StageRecord)


def read_mark(folder: str) -> Begun | None:
    """The mark of a begun stage's folder; None where the stage is done or has not begun.

    Raises:
        UserError: as in `read_record`.
    """
    return storage.read_as(storage.join(folder, STARTED), Begun)


def fingerprint(content: Any) -> str:
    """sha256 of the canonical JSON of plain values.

    Raises:
        TypeError: a value without a stable form (a path, a date, an object).
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A field's value as JSON; a settings object decides which of its fields to include."""
    return value.identity() if isinstance(value, Frozen) else value


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, Mapping):
        return {prefix: content}
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        leaves.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
