"""A training as values: the task that decides its weights, and the job of each worker."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model to start from; safetensors only."""

    location: str  # local folder that every node sees, URL of one, or Hugging Face hub id
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # run the code that comes with the model

    @property
    def load_options(self) -> dict[str, Any]:
        """Keyword arguments of transformers' `from_pretrained`, beside the location."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def absolute(self) -> BaseModel:
        """The same model for workers, which run in other folders; a hub id stays as it is."""
        if not os.path.isdir(self.location):
            return self
        return replace(self, location=os.path.abspath(self.location))


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Everything that decides the weights of a training."""

    base: BaseModel
    examples: str  # folder of Parquet files with the columns of `TrainingExample`, path or URL
    settings: TrainingSettings
    random_seed: int  # of the order of the examples and of the dropout


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that a worker must know: the task, and where and how it runs."""

    task: TrainingTask
    placement: TrainingPlacement
    output: str
    zero_stage: int
    micro_batch_tokens: int  # of one forward pass
    batch_size: int  # examples of a step, of all workers together
    num_steps: int
    run_name: str  # unique to this training: also names the local folder for checkpoints

    @property
    def settings(self) -> TrainingSettings:
        return self.task.settings
