"""Trackers that get the figures of trainings, beside the files in the run's folder."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from humpback_ray.config.fields import Frozen

Name = Annotated[str, Field(min_length=1)]


def _without_password(uri: str) -> str:
    # Do not show the value, because the run keeps its recipe.
    if urlsplit(uri).password:
        raise ValueError(
            "there is a password in it: export MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD where the run is started, and write the URI without it"
        )
    return uri


class WandbPlacement(Frozen):
    """Weights & Biases. Its variables (WANDB_API_KEY, WANDB_MODE, ...) are those of the driver."""

    project: Name = "humpback"
    entity: Name | None = None  # user or team; null: the key's own


class MlflowPlacement(Frozen):
    """MLflow. Its variables (MLFLOW_TRACKING_TOKEN, ...) are those of the driver."""

    # Of the tracking server, or a folder; null: MLFLOW_TRACKING_URI.
    uri: Annotated[Name, AfterValidator(_without_password)] | None = None
    experiment: Name = "humpback"


class TrackingPlacement(Frozen):
    """Trackers to which the driver sends every step of a training; null: not to this one."""

    wandb: WandbPlacement | None = None
    mlflow: MlflowPlacement | None = None
