"""The figures of a training's steps in Weights & Biases and MLflow, where the recipe names them.

Both packages are extras, imported only here and only when they are named. A tracker that fails ends
no training: its figures are in TensorBoard's files and in metrics.jsonl all the same.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import Any

from humpback_ray import storage
from humpback_ray.config.tracking import MlflowPlacement, TrackingPlacement, WandbPlacement
from humpback_ray.errors import UserError
from humpback_ray.execution.metrics import TensorBoard
from humpback_ray.execution.stage import Context, Stage

ID_TAG = "humpback_id"
OFFLINE_MODES = ("offline", "disabled", "dryrun")
MLFLOW_SECONDS = 10.0  # between two requests with the steps that came meanwhile
MLFLOW_RETRIES = 3  # of a request, within about fifteen seconds
MAX_METRICS, MAX_PARAMS = 1000, 100  # of one request to MLflow
MAX_PARAM_CHARACTERS = 500


@dataclass(frozen=True)
class TrackedRun:
    """A training as a tracker shows it."""

    id: str  # the same for a training that is resumed
    group: str  # name of the run
    stage: str
    settings: Mapping[str, Any]
    folder: str  # the stage's, for files that a tracker keeps

    @property
    def name(self) -> str:
        """The name for people."""
        return f"{self.group}/{self.stage}"


def tracked_run(context: Context, stage: Stage) -> TrackedRun:
    """The training of a stage."""
    key = f"{context.run_folder}\n{context.stage}\n{stage.fingerprint}"
    settings = stage.identity["settings"]
    digest = sha256(key.encode()).hexdigest()[:16]
    return TrackedRun(digest, context.run, context.stage, settings, context.folder)


def check_trackers(tracking: TrackingPlacement) -> None:
    """Refuse a tracker that the run cannot use, before any work.

    Raises:
        UserError: a package that is not installed, W&B without a key, or an MLflow server that
            does not answer.
    """
    if tracking.wandb:
        _check_wandb()
    if tracking.mlflow:
        _check_mlflow(tracking.mlflow)


class Boards:
    """TensorBoard's files of a training, and the trackers that its placement names."""

    def __init__(
        self, folder: str, tracking: TrackingPlacement, run: TrackedRun, note: Callable[[str], None]
    ) -> None:
        """Begin.

        Args:
            folder: path or URL of TensorBoard's files.
            tracking: names the trackers.
            run: the training.
            note: told once of a tracker that fails.
        """
        self._note = note
        self._board = TensorBoard(folder)
        self._trackers: list[WandbRun | MlflowRun] = []
        if wandb := tracking.wandb:
            self._trying("W&B", lambda: self._trackers.append(WandbRun(wandb, run)))
        if mlflow := tracking.mlflow:
            self._trying("MLflow", lambda: self._trackers.append(MlflowRun(mlflow, run)))

    def __enter__(self) -> Boards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._board.close()
        for tracker in self._trackers:
            self._trying(tracker.title, partial(tracker.close, has_failed=kind is not None))

    def add(self, values: dict[str, Any]) -> None:
        """Add the figures of one step, `values["step"]`."""
        self._board.add(values)
        self._trackers = [
            tracker
            for tracker in self._trackers
            if self._trying(tracker.title, partial(tracker.add, values))
        ]

    def _trying(self, title: str, work: Callable[[], None]) -> bool:
        """Do a tracker's work; returns False after a failure."""
        try:
            work()
        except _errors() as error:
            reason = storage.one_line(error)[:200] or type(error).__name__
            self._note(f"{title} gets no more figures of this stage: {reason}")
            return False
        return True


class WandbRun:
    """A run of Weights & Biases. In offline mode its files lie in the stage's folder."""

    title = "W&B"

    def __init__(self, settings: WandbPlacement, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.project, entity=settings.entity, id=run.id, name=run.name,
            group=run.group, config=dict(run.settings), resume="allow",
            dir=None if storage.is_url(run.folder) else run.folder,
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the figures of a step; W&B leaves out a step that a restart repeats."""
        self._run.log(dict(values), step=int(values["step"]))

    def close(self, *, has_failed: bool) -> None:
        """Send the rest."""
        self._run.finish(exit_code=int(has_failed))


class MlflowRun:
    """A run of MLflow, which gets the steps of some seconds in one request."""

    title = "MLflow"

    def __init__(self, settings: MlflowPlacement, run: TrackedRun) -> None:
        self._client = _mlflow_client(settings)
        self._id = self._begin(settings.experiment, run)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def _begin(self, experiment: str, run: TrackedRun) -> str:
        """Create the run, or open it again; returns its id."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment)
        known = self._client.search_runs([place], f"tags.{ID_TAG} = '{run.id}'", max_results=1)
        if known:
            self._client.update_run(known[0].info.run_id, status="RUNNING")
            return str(known[0].info.run_id)
        tags = {ID_TAG: run.id, "run": run.group, "stage": run.stage}
        made = self._client.create_run(place, run_name=run.name, tags=tags)
        params = [Param(key, str(v)[:MAX_PARAM_CHARACTERS]) for key, v in run.settings.items()]
        self._client.log_batch(made.info.run_id, params=params[:MAX_PARAMS])
        return str(made.info.run_id)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the figures of a step."""
        from mlflow.entities import Metric

        now, step = int(time.time() * 1000), int(values["step"])
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]
        if time.monotonic() - self._sent > MLFLOW_SECONDS:
            self._send()

    def close(self, *, has_failed: bool) -> None:
        """Send the rest."""
        self._send()
        self._client.set_terminated(self._id, "FAILED" if has_failed else "FINISHED")

    def _send(self) -> None:
        self._sent = time.monotonic()
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:MAX_METRICS])
            self._waiting = self._waiting[MAX_METRICS:]


def _check_wandb() -> None:
    try:
        import wandb
    except ImportError as error:
        raise UserError(_missing("wandb", "wandb")) from error
    if os.environ.get("WANDB_MODE") not in OFFLINE_MODES and not wandb.api.api_key:
        raise UserError(
            "W&B has no key (placement.tracking.wandb): export WANDB_API_KEY where the run is "
            "started, log in with `wandb login`, or export WANDB_MODE=offline"
        )


def _check_mlflow(settings: MlflowPlacement) -> None:
    try:
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UserError(_missing("mlflow", "mlflow-skinny")) from error
    try:
        _mlflow_client(settings).search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(
            f"MLflow cannot be used (placement.tracking.mlflow.uri): {storage.one_line(error)}"
        ) from error


def _mlflow_client(settings: MlflowPlacement) -> Any:
    # The client's own seven retries are four minutes, in which the driver reads no steps.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(MLFLOW_RETRIES))
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.uri)


def _missing(name: str, package: str) -> str:
    return (
        f"{package} is not installed, which placement.tracking.{name} needs: pip install {package} "
        f"(the extra `{name}` of this package), or set placement.tracking.{name}=null"
    )


def _errors() -> tuple[type[Exception], ...]:
    """Exceptions of the loaded trackers' packages, and of stores."""
    named = (("wandb.errors", "Error"), ("mlflow.exceptions", "MlflowException"))
    loaded = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return storage.errors(*loaded)
