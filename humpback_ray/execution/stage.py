"""A stage: its fields decide its result, its fingerprint hashes them, a record ends it.

A subclass declares one kind of stage once. Its fields are the identity: settings as values, other
stages and sources as inputs. Fields marked with `NOT_HASHED` change where or how it runs, or files
that `refresh` rewrites. `run` reads fields and placement only, so it cannot depend on anything that
the fingerprint misses.

No path, host, time or library version enters a fingerprint, so a run may be moved, resumed
elsewhere and placed differently. `record.json` is written last and atomically: a stage that has one
is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Literal

from humpback_ray import storage
from humpback_ray.config.fields import Frozen
from humpback_ray.config.placement import Placement
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress

RECORD = "record.json"
STARTED = "started.json"
METRICS = "metrics.jsonl"
PROGRESS = "progress.json"  # while the stage runs

NOT_HASHED = {"hashed": False}  # metadata of a field that is not part of the identity

# Parts of a run that a job of its own can do.
Part = Literal["prepare", "finetune", "augment", "rate", "evaluate"]


class State(StrEnum):
    """What a stage's folder holds."""

    DONE = "done"  # a record with the same fingerprint
    STARTED = "started"  # begun under the same fingerprint and not finished: will be resumed
    TO_DO = "to do"
    CHANGED = "changed"  # begun or finished under other settings or inputs


@dataclass(frozen=True)
class Source:
    """An input from outside of the run: a corpus, a seed file, a base model.

    `identity` hashes the content, so the same data at another place is the same source. It is None
    where the location holds nothing that can be used; `problem` then says so in one line.
    """

    location: str
    identity: str | None
    revision: str | None = None  # of a model on the Hugging Face hub
    problem: str = ""

    @property
    def fingerprint(self) -> str:
        return fingerprint({"source": self.identity})


@dataclass(frozen=True)
class Context:
    """What a running stage gets: its folder, the placement, and ways to report."""

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

    def of(self, made: Stage | Source, *parts: str) -> str:
        """A path in another stage's folder; a source's location as it is."""
        if isinstance(made, Source):
            return made.location
        return storage.join(self.run_folder, made.path, *parts)


@dataclass(frozen=True)
class Result:
    """What a stage made, for its record and for people. Outcomes add up to `num_rows`."""

    num_rows: int
    outcomes: Mapping[str, int]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(self.outcomes.values()) == self.num_rows, (self.num_rows, dict(self.outcomes))


@dataclass(frozen=True)
class Begun:
    """The mark of a begun stage: the identity under which it was begun."""

    fingerprint: str
    identity: dict[str, Any]


@dataclass(frozen=True)
class StageRecord(Begun):
    """What `record.json` says of a finished stage."""

    num_rows: int
    outcomes: dict[str, int]
    figures: dict[str, Any]
    seconds: float
    provenance: dict[str, Any]

    @property
    def counts(self) -> str:
        """Rows and outcomes in one line."""
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return f"{self.num_rows} rows ({outcomes})"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the method. A subclass adds its fields, class variables and `run`."""

    kind: ClassVar[str]
    version: ClassVar[int]  # raised by hand when the meaning of the code changes
    part: ClassVar[Part]
    # A result that no other stage reads: under other settings it is set aside and made again.
    is_replaceable: ClassVar[bool] = False

    path: str = field(metadata=NOT_HASHED)  # below the run's folder; slashes nest

    @property
    def uses_engines(self) -> bool:
        """The stage generates on engines."""
        return False

    @property
    def uses_workers(self) -> bool:
        """The stage trains on training workers."""
        return False

    def run(self, context: Context) -> Result:
        """Make the result, or the rest of it, in the stage's folder."""
        raise NotImplementedError

    def refresh(self, context: Context) -> None:
        """Rewrite cheap files beside the result that no fingerprint covers, where they differ."""

    def wording(self) -> dict[str, str]:
        """Texts out of the code on which the result depends: a change of wording is a change."""
        return {}

    @cached_property
    def inputs(self) -> dict[str, Stage | Source]:
        """Stages and sources that the stage reads, by the names of their fields."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, Stage | Source)}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of the fingerprint."""
        values = {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.metadata.get("hashed", True) and f.name not in self.inputs
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
        """A line for each source behind this stage that cannot be used; empty when it is known."""
        found: dict[str, None] = {}
        for source in self.inputs.values():
            lines = source.problems if isinstance(source, Stage) else (source.problem,)
            found |= dict.fromkeys(line for line in lines if line)
        return tuple(found)

    def find(self, run_folder: str) -> tuple[State, StageRecord | Begun | None]:
        """The state of this stage in a run; its record if it is done, its mark if it changed."""
        folder = storage.join(run_folder, self.path)
        record = read_record(folder)
        begun: Begun | None = record
        if record is None and (mark := storage.read_json(storage.join(folder, STARTED))):
            begun = Begun(mark["fingerprint"], mark["identity"])
        if begun is None:
            return State.TO_DO, None
        if begun.fingerprint != self.fingerprint:
            return State.CHANGED, begun
        return (State.DONE if record else State.STARTED), record

    def differences(self, begun: Begun) -> list[str]:
        """The fields that differ between a folder's stage and this one, `name: old → new`."""
        old, new = _flat(begun.identity), _flat(self.identity)
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
        """Write the record and remove what only an unfinished stage has."""
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
    """The record of a stage's folder; None where the stage is not done."""
    content = storage.read_json(storage.join(folder, RECORD))
    return None if content is None else StageRecord(**content)


def fingerprint(content: Any) -> str:
    """sha256 of the canonical JSON of plain values.

    Raises:
        TypeError: a value without a stable form (a path, a date, an object).
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A field's value as JSON; settings say themselves what their result depends on."""
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
