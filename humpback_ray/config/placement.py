"""Placement: where and how a run executes. Never part of a fingerprint.

Changing placement never changes which rows come out or which examples a training step sees.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from humpback_ray.config.benchmarks import BenchmarkPlacement
from humpback_ray.config.fields import Frozen, PositiveInt, Share
from humpback_ray.config.tracking import TrackingPlacement
from humpback_ray.config.urls import ray_address
from humpback_ray.errors import UserError

# --- placement ----------------------------------------------------------------------------------


class ClusterPlacement(Frozen):
    """The Ray cluster: a run joins the one at `address` or `RAY_ADDRESS`, or starts one here."""

    address: Annotated[str, AfterValidator(ray_address)] | None = None
    local_cpus: PositiveInt = 8  # logical CPUs of a cluster that the run starts
    autoscaling: bool = False  # wait for nodes that an autoscaler adds, instead of refusing


class CorpusPlacement(Frozen):
    """The tasks that look for duplicates."""

    # Of one task, about 12 KB of memory each. Twice as many rows need twice as many tasks.
    rows_per_task: PositiveInt = 50_000


class EnginePlacement(Frozen):
    """One pool of vLLM engines, shared by augmentation, rating and evaluation."""

    device: Literal["cpu", "gpu"] = "gpu"
    min_engines: PositiveInt = 1
    max_engines: PositiveInt = 1
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    accelerator_type: str | None = None  # Ray's name for it: A100, H100, ...
    enforce_eager: bool = False
    max_num_seqs: PositiveInt | None = None  # null: vLLM's default for the device
    gpu_memory_utilization: Share = 0.9
    cpu_kv_cache_gib: PositiveInt = 1
    across_nodes: bool = False  # one engine may use devices of several nodes
    rows_per_batch: PositiveInt = 256  # one task and one save; a killed engine loses at most this
    max_concurrent_batches: PositiveInt = 4  # in one engine
    max_restarts: Annotated[int, Field(ge=0)] = (
        10  # of engines, without a finished batch between them
    )
    # Restart an engine that holds requests but has made no step for this long.
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    # Longest allowed engine start, including download and compilation.
    start_seconds: Annotated[float, Field(gt=0)] = 1800.0

    @model_validator(mode="after")
    def _ordered(self) -> EnginePlacement:
        if self.min_engines > self.max_engines:
            raise ValueError(
                f"min_engines {self.min_engines} is above max_engines {self.max_engines}"
            )
        return self


class TrainingPlacement(Frozen):
    """Ray Train workers and DeepSpeed ZeRO. No field changes which examples a step sees."""

    device: Literal["cpu", "gpu"] = "gpu"
    num_workers: PositiveInt = 8
    # Continue with as few workers as this after a loss of nodes, and grow again when nodes return.
    min_workers: PositiveInt | None = None  # null: always num_workers
    cpus_per_worker: PositiveInt = 1
    accelerator_type: str | None = None
    zero_stage: Literal[1, 2, 3] | None = None  # null: the lowest that fits
    offload_optimizer: Literal["cpu", "nvme"] | None = None
    offload_parameters: Literal["cpu", "nvme"] | None = None  # ZeRO-3 only
    nvme_path: str | None = None  # a folder on a local disk of each node
    # Tokens of one worker's forward pass, at least one example; null: as many as fit.
    micro_batch_tokens: PositiveInt | None = None
    # Concatenate examples without padding; false: for models that let packed examples mix.
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
    """Limits of the requests to `settings.rating.endpoint`, all of which one process sends."""

    key: ClassVar[str] = "placement.endpoint"

    # The environment variable that holds the key where the driver runs. Never the key itself.
    api_key_variable: str | None = None
    requests_per_second: Annotated[float, Field(gt=0)] | None = None  # with retries; null: no limit
    max_in_flight: PositiveInt = 64  # requests
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0  # of one request
    max_retries: Annotated[int, Field(ge=0)] = 5  # of one row
    first_retry_seconds: Annotated[float, Field(gt=0)] = 1.0  # doubled for each further retry
    max_failures_in_a_row: PositiveInt = (
        200  # rows; after them the run stops, because the server is gone
    )
    # Requests of one command, retries included. The run stops before it sends more; null: no limit.
    max_requests: PositiveInt | None = None

    @field_validator("api_key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        # Do not show the value: it may be the key itself.
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError(
                "the name of an environment variable is wanted, such as OPENAI_API_KEY, never the "
                "key itself: export the key under that name and write the name here"
            )
        return name

    def read_key(self) -> SecretStr | None:
        """The key in this process's environment; None where the endpoint needs none.

        Raises:
            UserError: the variable is not set, or holds no key.
        """
        name = self.api_key_variable
        if name is None:
            return None
        key = os.environ.get(name, "").strip()  # a mounted secret often ends with a line break
        variable = f"the environment variable {name} ({self.key}.api_key_variable)"
        if not key:
            raise UserError(
                f"{variable} is not set: export the endpoint's key under that name where the run "
                "is started"
            )
        # A client that cannot send the key would show it in its error.
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{variable} holds no key: a key is one line of ASCII characters")
        return SecretStr(key)


class JudgeEndpointPlacement(EndpointPlacement):
    """Limits of the requests to `settings.evaluation.judge.endpoint`, with a separate key."""

    key: ClassVar[str] = "placement.judge_endpoint"


class AlpacaEvalPlacement(Frozen):
    """AlpacaEval's own length-controlled win rate, which a judgement has on its 805 prompts.

    Without an interpreter the judgement has the minimal formula alone.
    """

    # A Python interpreter, where the run is started, that has alpaca_eval.
    python: str | None = None
    # A copy of df_gamed.csv of the dataset tatsu-lab/alpaca_eval; null: alpaca_eval gets it.
    difficulties: str | None = None

    @model_validator(mode="after")
    def _has_a_reader(self) -> AlpacaEvalPlacement:
        if self.difficulties and self.python is None:
            raise ValueError(
                "placement.alpaca_eval.difficulties is for alpaca_eval: set "
                "placement.alpaca_eval.python to an interpreter that has it"
            )
        return self


class Placement(Frozen):
    """Where and how a run executes. Never part of a fingerprint."""

    cluster: ClusterPlacement = ClusterPlacement()
    corpus: CorpusPlacement = CorpusPlacement()
    engine: EnginePlacement = EnginePlacement()
    training: TrainingPlacement = TrainingPlacement()
    endpoint: EndpointPlacement = EndpointPlacement()
    judge_endpoint: JudgeEndpointPlacement = JudgeEndpointPlacement()
    benchmarks: BenchmarkPlacement = BenchmarkPlacement()
    alpaca_eval: AlpacaEvalPlacement = AlpacaEvalPlacement()
    tracking: TrackingPlacement = TrackingPlacement()
