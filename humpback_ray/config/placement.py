"""Placement: where and how a run executes. Never part of a fingerprint.

Changing placement never changes which rows come out or which examples a training step sees.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from humpback_ray.config.fields import Frozen, PositiveInt, Share

# --- placement ----------------------------------------------------------------------------------


class ClusterPlacement(Frozen):
    """The Ray cluster: `RAY_ADDRESS` or `address` joins one, otherwise one is started here."""

    address: str | None = None
    local_cpus: PositiveInt = 8  # logical CPUs of the cluster started here
    autoscaling: bool = False  # nodes come when engines ask for them: wait instead of refusing


class EnginePlacement(Frozen):
    """One pool of vLLM engines, shared by augmentation, rating and evaluation."""

    device: Literal["cpu", "gpu"] = "gpu"
    min_engines: PositiveInt = 1
    max_engines: PositiveInt = 1
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    accelerator_type: str | None = None  # as Ray names it: A100, H100, ...
    enforce_eager: bool = False
    max_num_seqs: PositiveInt | None = None  # null: vLLM's default for the device
    gpu_memory_utilization: Share = 0.9
    cpu_kv_cache_gib: PositiveInt = 1
    # Rate the first iteration while the candidates come, each on a pool of this many engines.
    one_stream: bool = False
    across_nodes: bool = False  # let one engine's devices lie on several nodes
    rows_per_batch: PositiveInt = 256  # one task and one file: what a killed engine does again
    max_concurrent_batches: PositiveInt = 4  # in one engine at a time
    max_restarts: Annotated[int, Field(ge=0)] = 10  # of engines, with no batch finished between
    # An engine that holds rows and has not run its model for so long is ended and started again.
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    # So long may an engine take to start, with a model that is fetched and compiled.
    start_seconds: Annotated[float, Field(gt=0)] = 1800.0

    @model_validator(mode="after")
    def _ordered(self) -> EnginePlacement:
        if self.min_engines > self.max_engines:
            raise ValueError(
                f"min_engines {self.min_engines} is above max_engines {self.max_engines}"
            )
        return self


class TrainingPlacement(Frozen):
    """Ray Train workers and DeepSpeed ZeRO. None of it changes which examples a step sees."""

    device: Literal["cpu", "gpu"] = "gpu"
    num_workers: PositiveInt = 8
    # Go on with as few as this when nodes are lost, and with more again when they are back.
    min_workers: PositiveInt | None = None  # null: always num_workers
    cpus_per_worker: PositiveInt = 1
    accelerator_type: str | None = None
    zero_stage: Literal[1, 2, 3] | None = None  # null: the lowest that fits
    offload_optimizer: Literal["cpu", "nvme"] | None = None
    offload_parameters: Literal["cpu", "nvme"] | None = None  # ZeRO-3 only
    nvme_path: str | None = None  # a folder on each node's own disk
    # Tokens of one forward pass of one worker; null: as many as fit. Never below one example.
    micro_batch_tokens: PositiveInt | None = None
    # Examples one after the other in a row, without padding; false: for a model that mixes them.
    packing: bool = True
    gradient_checkpointing: bool = False
    # liger: fused kernels for norms, rotary embeddings and MLPs, on GPUs, from the `gpu` extra.
    kernels: Literal["torch", "liger"] = "torch"
    checkpoint_every: PositiveInt = 100  # steps
    max_failures: Annotated[int, Field(ge=0)] = 3  # restarts of the worker group

    @model_validator(mode="after")
    def _gpu_kernels(self) -> TrainingPlacement:
        if self.kernels == "liger" and self.device == "cpu":
            raise ValueError(
                "Liger's kernels are for GPUs: set placement.training.kernels to torch, or "
                "placement.training.device to gpu"
            )
        return self

    @model_validator(mode="after")
    def _offload(self) -> TrainingPlacement:
        if self.offload_parameters and self.zero_stage not in (None, 3):
            raise ValueError(
                f"offload_parameters is set with zero_stage {self.zero_stage}, which does not "
                "partition parameters: set placement.training.zero_stage to 3"
            )
        uses_nvme = "nvme" in (self.offload_optimizer, self.offload_parameters)
        if uses_nvme != (self.nvme_path is not None):
            raise ValueError(
                "placement.training.nvme_path belongs to an offload to nvme, and only there"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is above num_workers {self.num_workers}"
            )
        return self


class EndpointPlacement(Frozen):
    """How requests go to `settings.rating.endpoint`: from one process, at one rate."""

    # Name of the environment variable that holds the key, where the run is started. Never the key.
    api_key_variable: str | None = None
    requests_per_second: Annotated[float, Field(gt=0)] | None = None  # retries too; null: no limit
    max_in_flight: PositiveInt = 64  # requests
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0  # of one request
    max_retries: Annotated[int, Field(ge=0)] = 5  # of one row
    first_retry_seconds: Annotated[float, Field(gt=0)] = 1.0  # doubled for each further retry
    max_failures_in_a_row: PositiveInt = 200  # rows; then the run stops, because the server is gone

    @field_validator("api_key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        # The value is not shown: somebody may have written the key itself here.
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError(
                "the name of an environment variable is wanted, such as OPENAI_API_KEY, never the "
                "key itself: export the key under that name and write the name here"
            )
        return name


class Placement(Frozen):
    """Where and how a run executes. Never part of a fingerprint."""

    cluster: ClusterPlacement = ClusterPlacement()
    engine: EnginePlacement = EnginePlacement()
    training: TrainingPlacement = TrainingPlacement()
    endpoint: EndpointPlacement = EndpointPlacement()
