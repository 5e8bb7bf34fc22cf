"""What the folder of a run says: its stages, its state, its last model."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.execution import clock, lease, logs
from humpback_ray.execution.stage import METRICS, PROGRESS, RECORD, STARTED

FRESH_SECONDS = 4 * lease.STATE_SECONDS
METRICS_BYTES, LOG_BYTES = 2**14, 2**18  # read from the end of a file


def status_of(run_folder: str) -> dict[str, Any]:
    """A run as its folder shows it, for people and programs.

    Returns:
        `run`; `state` (running, done, or stopped); `attempt`, the number of the last one; `stages`
        in the run's order, as `_stage_in` has them; `last_error`, of the last attempt, or None.

    Raises:
        UserError: there is no run, or the folder cannot be read from here.
    """
    try:
        attempts = sorted(storage.names(storage.join(run_folder, "attempts")))
        begun = {stage["stage"]: stage for stage in _begun_in(run_folder)}
    except storage.errors() as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{run_folder} cannot be read from here: {reason}") from error
    if not begun and not attempts:
        raise UserError(f"no run in {run_folder}: give the folder that `humpback run` named")
    last = storage.join(run_folder, "attempts", attempts[-1]) if attempts else ""
    attempt = storage.read_json(storage.join(last, "attempt.json")) if last else None
    declared = (attempt or {}).get("stages", [])
    to_do = [_stage(path, "to do") for path in declared if path not in begun]
    stages = sorted([*begun.values(), *to_do], key=lambda stage: _place(stage, declared))
    is_running = any(stage["state"] == "running" for stage in stages)
    is_done = all(stage["state"] == "done" for stage in stages)
    log = storage.join(last, "run.log")
    return {
        "run": run_folder,
        "state": "running" if is_running else "done" if is_done else "stopped",
        "attempt": int(attempts[-1]) if attempts else None,
        "stages": stages,
        "last_error": logs.last_error(_end_of(log, LOG_BYTES)) if last else None,
    }


def _begun_in(run_folder: str) -> list[dict[str, Any]]:
    filesystem, path = storage.locate(run_folder)
    found = filesystem.find(path, maxdepth=4) if filesystem.exists(path) else []
    stages = []
    for file in found:
        folder, _, name = file.rpartition("/")
        if name == RECORD or (name == STARTED and f"{folder}/{RECORD}" not in found):
            stages.append(_stage_in(run_folder, folder[len(path) :].strip("/"), name))
    return stages


def _stage_in(run_folder: str, path: str, mark: str) -> dict[str, Any]:
    """State, counts, outcomes and seconds of a begun stage; of an unfinished one, what is going on.

    `progress` is what `StageProgress.state` says, `metrics` the last line of metrics.jsonl. A stage
    is `running` while its progress is fresh, by this machine's clock, and `started` otherwise.
    """
    folder = storage.join(run_folder, path)
    content = storage.read_json(storage.join(folder, mark))
    if mark == RECORD:
        names = ("fingerprint", "num_rows", "outcomes", "figures", "seconds")
        found = {name: content[name] for name in names}
        return _stage(path, "done", **found, finished_at=content["provenance"]["finished_at"])
    progress = storage.read_json(storage.join(folder, PROGRESS))
    lines = _end_of(storage.join(folder, METRICS), METRICS_BYTES).splitlines()
    return _stage(
        path,
        "running" if progress and _age(progress["time"]) < FRESH_SECONDS else "started",
        fingerprint=content["fingerprint"],
        progress=progress,
        metrics=json.loads(lines[-1]) if lines else None,
    )


def _stage(path: str, state: str, **known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(("fingerprint", "num_rows", "seconds", "finished_at"))
    return {
        "stage": path, "state": state, **unknown, "outcomes": {}, "figures": {}, "progress": None,
        "metrics": None, **known,
    }  # fmt: skip


def _place(stage: dict[str, Any], declared: list[str]) -> tuple[int, str, str]:
    """In the order of the run; of runs that did not note theirs, oldest record first."""
    path = stage["stage"]
    place = declared.index(path) if path in declared else len(declared)
    return place, stage["finished_at"] or "~", path


def _age(time: str) -> float:
    """Seconds since a time in UTC as `clock.utc_now` writes it."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def _end_of(url: str, num_bytes: int) -> str:
    """The last whole lines of a text file; empty when there is none."""
    if not storage.exists(url):
        return ""
    filesystem, path = storage.locate(url)
    size = filesystem.size(path)
    text = filesystem.cat_file(path, start=max(size - num_bytes, 0)).decode(errors="replace")
    whole, _, _ = text.rpartition("\n")
    return whole if size <= num_bytes else whole.partition("\n")[2]


def describe_unfinished(stage: dict[str, Any]) -> str:
    """One line on a stage of `status_of` that is going on, or was: detail, rates, time left."""
    progress, metrics = stage["progress"], stage["metrics"] or {}
    if progress is None:
        return ""
    parts = [progress["detail"]]
    if "rows_per_second" in metrics:
        parts.append(f"{metrics['rows_per_second']:,.1f} rows/s")
    if stage["state"] != "running":
        parts.append(f"no sign of life for {clock.duration(_age(progress['time']))}")
    elif progress["seconds_left"] is not None:
        parts.append(f"{clock.duration(progress['seconds_left'])} left")
    return ", ".join(part for part in parts if part)


def last_model(folder: str) -> str:
    """The model of a run's last finished iteration, or the folder itself if it is a model.

    Raises:
        UserError: there is none.
    """
    if "config.json" in storage.names(folder) and "tokenizer.json" in storage.names(folder):
        return folder
    iterations = [n for n in storage.names(folder) if n.startswith("iter-")]
    ordered = sorted(iterations, key=lambda name: int(name.removeprefix("iter-")), reverse=True)
    for name in [*ordered, "forward-0"]:
        if storage.exists(storage.join(folder, name, "model", RECORD)):
            return storage.join(folder, name, "model")
    raise UserError(f"no finished model in {folder}: give the folder of a run or of a model")
