"""A stage: declared by its settings and inputs, identified by a fingerprint, finished by a record.

The fingerprint is a hash of kind, version, settings and the inputs' fingerprints. No path, host,
time or library version enters it, so a run may be moved, resumed elsewhere, and placed differently.
`record.json` is written last and atomically: a stage that has one is done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from rich.console import Console

from humpback_ray import storage
from humpback_ray.config.placement import Placement
from humpback_ray.errors import UserError
from humpback_ray.execution import lease, provenance
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress, state_written

RECORD = "record.json"
STARTED = "started.json"
METRICS = "metrics.jsonl"
PROGRESS = "progress.json"  # while the stage runs


class State(StrEnum):
    """What is found in a stage's folder."""

    DONE = "done"  # a record with the same fingerprint
    STARTED = "started"  # begun under the same fingerprint and not finished: will be resumed
    TO_DO = "to do"
    CHANGED = "changed"  # begun or finished under other settings or inputs


@dataclass(frozen=True)
class Source:
    """An input from outside of the run: a corpus, a seed file, a base model.

    `identity` is a hash of its content, so the same data at another place is the same source; None
    where there is nothing at the location.
    """

    location: str
    identity: str | None

    @property
    def fingerprint(self) -> str:
        return fingerprint({"source": self.identity})

    @property
    def is_known(self) -> bool:
        """Whether the fingerprint says what the source is."""
        return self.identity is not None


@dataclass(frozen=True)
class Context:
    """What a stage's run function gets."""

    folder: str  # where this stage writes
    placement: Placement
    progress: StageProgress
    metrics: Metrics
    # Names for those who watch several runs at a time.
    run: str = ""
    stage: str = ""

    def path(self, *parts: str) -> str:
        """A path in the stage's folder."""
        return storage.join(self.folder, *parts)


@dataclass(frozen=True)
class Result:
    """What a stage made, for its record and for people. Outcomes add up to `num_rows`."""

    num_rows: int
    outcomes: Mapping[str, int]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(self.outcomes.values()) == self.num_rows, (self.num_rows, dict(self.outcomes))


@dataclass(frozen=True)
class Stage:
    """One step of the method, with everything that decides what it makes."""

    path: str  # below the run's folder; slashes nest
    kind: str
    version: int  # raised by hand when the meaning of the code changes
    settings: Mapping[str, Any]  # JSON values only
    inputs: Mapping[str, Stage | Source]
    run: Callable[[Context], Result] = field(compare=False)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the fingerprint is made of."""
        return {
            "kind": self.kind,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": {name: source.fingerprint for name, source in self.inputs.items()},
        }

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @cached_property
    def is_known(self) -> bool:
        """Whether every source behind this stage is there, so that its fingerprint counts."""
        return all(source.is_known for source in self.inputs.values())

    def find(self, run_folder: str) -> tuple[State, dict[str, Any] | None]:
        """The state of this stage in a run, with its record if it has one."""
        folder = storage.join(run_folder, self.path)
        record = storage.read_json(storage.join(folder, RECORD))
        begun = record or storage.read_json(storage.join(folder, STARTED))
        if begun is None:
            return State.TO_DO, None
        if begun["fingerprint"] != self.fingerprint:
            return State.CHANGED, begun
        return (State.DONE if record else State.STARTED), record

    def differences(self, begun: Mapping[str, Any]) -> list[str]:
        """The fields that differ between a folder's stage and this one, `name: old → new`."""
        old, new = _flat(begun["identity"]), _flat(self.identity)
        return [
            f"{name}: {_short(old.get(name))} → {_short(new.get(name))}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]

    def begin(self, run_folder: str) -> dict[str, Any]:
        """Mark the stage's folder as begun under this fingerprint; returns what the mark says."""
        identity = {"fingerprint": self.fingerprint, "identity": self.identity}
        mark = storage.join(run_folder, self.path, STARTED)
        if not storage.exists(mark):
            storage.write_json(mark, identity)
        return identity

    def execute(self, run_folder: str, placement: Placement, console: Console) -> dict[str, Any]:
        """Run the stage (or the rest of it) and write its record, last.

        Raises:
            UserError: another driver is at work on it.
        """
        folder = storage.join(run_folder, self.path)
        if other := lease.other_driver(storage.join(folder, PROGRESS), console):
            raise UserError(
                f"{folder} is being written by another driver, process {other['pid']} on "
                f"{other['host']}: wait for its end, or end it, and give the same command again"
            )
        identity = self.begin(run_folder)
        started = time.monotonic()
        metrics = Metrics(storage.join(folder, METRICS))
        try:
            names = storage.name(run_folder), self.path
            with (
                StageProgress(console, self.path).shown() as progress,
                state_written(progress, storage.join(folder, PROGRESS)),
            ):
                result = self.run(Context(folder, placement, progress, metrics, *names))
        except UserError:
            # A mistake of the user's that left nothing behind must not stand in the way of the
            # next attempt under other settings.
            if storage.names(folder) <= {STARTED, METRICS, PROGRESS}:
                storage.delete(folder)
            raise
        except BaseException:
            # Steps that a stopped training has reported; a store that is gone must not hide why.
            with suppress(*storage.errors()):
                metrics.flush()
            raise
        metrics.flush()
        record = {
            **identity,
            "num_rows": result.num_rows,
            "outcomes": dict(result.outcomes),
            "figures": dict(result.figures),
            "seconds": round(time.monotonic() - started, 1),
            "provenance": provenance.provenance(),
        }
        storage.write_json(storage.join(folder, RECORD), record)
        storage.delete(storage.join(folder, STARTED))
        storage.delete(storage.join(folder, PROGRESS))
        return record


def fingerprint(content: Any) -> str:
    """sha256 of the canonical JSON of plain values.

    Raises:
        TypeError: a value without a stable form (a path, a date, an object).
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
