"""Memory of engines and of training workers, and the layouts that fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from humpback_ray.config.settings import (
    LoraSettings,
)
from humpback_ray.errors import UserError
from humpback_ray.sizing.architecture import Architecture
from humpback_ray.sizing.hardware import GIB, Hardware

# Beside weights and KV cache: context, workspace, CUDA graphs. A guess that `probe` replaces.
ENGINE_WORKSPACE = 2 * GIB
# Beside states and activations: context, communication buffers, fragmentation. A guess likewise.
TRAINING_WORKSPACE = 4 * GIB
# Bytes of one trained parameter: fp32 master value and Adam's two moments; with its 16-bit weight,
# as in a checkpoint; and with its 16-bit gradient too, as DeepSpeed offloads them.
OPTIMIZER_BYTES, CHECKPOINT_BYTES, OFFLOADED_BYTES = 12, 14, 16
NUM_CHECKPOINTS_KEPT = 2  # of a training, beside the one that is being written
# Decoding reads all weights at each step. If the cache holds fewer sequences of the full context
# than this, more GPUs per engine help more than more engines. A guess.
MIN_SEQUENCES = 4


# --- engines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineFit:
    """Layout of one engine on GPUs. Bytes are per GPU."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    weight_bytes: float
    kv_bytes: float
    num_kv_tokens: int  # capacity of the KV cache, in tokens of all sequences

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


def place_engine(
    architecture: Architecture, dtype: str, tensor: int, pipeline: int, usable: float
) -> EngineFit:
    """An engine with that layout on GPUs with `usable` bytes each.

    The bytes and tokens of its KV cache are negative if the weights do not fit.
    """
    weights = architecture.weight_bytes(dtype) / (tensor * pipeline)
    cache = usable - weights - ENGINE_WORKSPACE
    # vLLM never splits a KV head, so with more GPUs than heads several GPUs keep the same one.
    parts = min(tensor, architecture.num_kv_heads) * pipeline
    num_tokens = math.floor(cache * parts / architecture.kv_bytes_per_token(dtype))
    return EngineFit(tensor, pipeline, weights, cache, num_tokens)


def smallest_engine(
    architecture: Architecture,
    hardware: Hardware,
    *,
    dtype: str,
    context_length: int,
    gpu_memory_utilization: float,
) -> EngineFit:
    """The layout with the fewest GPUs that holds MIN_SEQUENCES of the full context, or the largest.

    Prefers replicas to tensor parallelism, and tensor parallelism within a node to pipelines across
    nodes. The caller must check that the largest holds one sequence.
    """
    sizes = [n for n in _tensor_parallel_sizes(architecture) if n <= hardware.gpus_per_node]
    layouts = [(n, 1) for n in sizes] + [(sizes[-1], n) for n in range(2, hardware.num_nodes + 1)]
    usable = hardware.gpu.memory * gpu_memory_utilization
    fits = [place_engine(architecture, dtype, *layout, usable) for layout in layouts]
    large_enough = (fit for fit in fits if fit.num_kv_tokens >= MIN_SEQUENCES * context_length)
    return next(large_enough, fits[-1])


def _tensor_parallel_sizes(architecture: Architecture) -> list[int]:
    """Powers of two that divide the attention heads, as vLLM requires."""
    return [2**n for n in range(7) if architecture.num_heads % 2**n == 0]


def engine_bytes(
    architecture: Architecture, dtype: str, context_length: int, tensor: int, pipeline: int
) -> tuple[float, float]:
    """Bytes on each GPU for the weights, and for the KV cache of one sequence of full length."""
    weights = architecture.weight_bytes(dtype) / (tensor * pipeline)
    parts = min(tensor, architecture.num_kv_heads) * pipeline
    return weights, context_length * architecture.kv_bytes_per_token(dtype) / parts


def check_engine_fits(
    architecture: Architecture,
    *,
    dtype: str,
    context_length: int,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    gpu_memory_utilization: float,
    gpu_memory: int,
) -> None:
    """Refuse an engine that cannot hold its weights and one sequence of the full context.

    Args:
        dtype: of weights and KV cache, as vLLM names it, or `fp8` for weights in 8 bits.
        gpu_memory: of one GPU, in bytes.

    Raises:
        UserError: the engine does not fit. The message has the needed and the usable bytes, and the
            settings that would make it fit.
    """
    sizes = _tensor_parallel_sizes(architecture)
    tensor, pipeline = tensor_parallel_size, pipeline_parallel_size
    if architecture.num_heads % tensor:
        raise UserError(
            f"placement.engine.tensor_parallel_size {tensor} does not divide the model's "
            f"{architecture.num_heads} attention heads: set it to one of "
            f"{', '.join(map(str, sizes))}"
        )
    usable = gpu_memory * gpu_memory_utilization

    def num_tokens(tensor: int, dtype: str) -> int:
        return place_engine(architecture, dtype, tensor, pipeline, usable).num_kv_tokens

    capacity = num_tokens(tensor, dtype)
    if capacity >= context_length:
        return
    larger = [n for n in sizes if n > tensor and num_tokens(n, dtype) >= context_length]
    weights, cache = engine_bytes(architecture, dtype, context_length, tensor, pipeline)
    needed = weights + cache + ENGINE_WORKSPACE
    ways_out = [
        f"placement.engine.tensor_parallel_size to {larger[0]}" if larger
        else "placement.engine.pipeline_parallel_size higher (no tensor_parallel_size is enough)",
        f"settings.context_length to at most {capacity}" if capacity > 0
        else "no settings.context_length that would do (the weights alone do not fit)",
        "fp8 weights (they fit)" if dtype != "fp8" and num_tokens(tensor, "fp8") >= context_length
        else f"GPUs of at least {gib(needed / gpu_memory_utilization)} (fp8 weights do not fit)",
    ]  # fmt: skip
    raise UserError(
        f"the model does not fit: each GPU needs {gib(needed)} (weights {gib(weights)}, KV cache "
        f"of one sequence of {context_length} tokens {gib(cache)}, workspace "
        f"{gib(ENGINE_WORKSPACE)}) and gives {gib(usable)} ({gpu_memory_utilization:g} of "
        f"{gib(gpu_memory)}): set {', or '.join(ways_out)}"
    )


def gib(num_bytes: float) -> str:
    """Bytes as a person reads them, in GiB."""
    return f"{num_bytes / GIB:.1f} GiB"


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingFit:
    """Layout of a training on GPUs. Bytes are per GPU."""

    zero_stage: int
    micro_batch_size: int  # examples of the full length
    num_workers: int
    state_bytes: float
    activation_bytes: float

    @property
    def needed_bytes(self) -> float:
        return self.state_bytes + self.activation_bytes + TRAINING_WORKSPACE


def state_bytes(
    architecture: Architecture,
    zero_stage: int,
    num_workers: int,
    lora: LoraSettings | None = None,
) -> float:
    """Parameters, gradients and optimizer of bf16 training on each GPU.

    A trained parameter takes 2 bytes, its gradient 2 + 4 (summed in fp32), its master weight and
    Adam's moments 12; a frozen parameter takes 2 bytes. Stages 2 and 3 are DeepSpeed's estimators
    (https://deepspeed.readthedocs.io/en/latest/memory.html); 0 and 1 follow from the same parts.
    """
    trained = architecture.num_trained(lora)
    frozen = 2 * (architecture.num_parameters - trained) if lora else 0
    largest = architecture.hidden_size * max(
        architecture.vocabulary_size, architecture.intermediate_size
    )
    return {
        0: frozen + 20 * trained,
        1: frozen + 8 * trained + OPTIMIZER_BYTES * trained / num_workers,
        2: frozen + 2 * trained + 18 * trained / num_workers,
        3: 4 * largest + (frozen + 18 * trained) / num_workers,
    }[zero_stage]


def activation_bytes(
    architecture: Architecture, tokens: int, *, gradient_checkpointing: bool
) -> float:
    """Bytes of a micro-batch's activations in 16 bits, with fused attention.

    34 bytes for each token, hidden unit and layer (arXiv 2205.05198, equation 1, without the
    scores); with checkpointing, the inputs of all layers and one layer in full. Then the logits in
    16 and 32 bits and their gradient.
    """
    inner = tokens * architecture.hidden_size
    layers = architecture.num_layers
    held = 2 * inner * layers + 34 * inner if gradient_checkpointing else 34 * inner * layers
    return held + 10 * tokens * architecture.vocabulary_size


def fit_training(
    architecture: Architecture,
    hardware: Hardware,
    *,
    batch_size: int,
    max_length: int,
    gradient_checkpointing: bool,
    lora: LoraSettings | None = None,
) -> TrainingFit:
    """Layout of a training on hardware: `fit_workers` with a worker on each GPU.

    Workers beyond the batch hold states and have no example.
    """
    return fit_workers(
        architecture, hardware.gpu.memory, hardware.num_gpus, batch_size=batch_size,
        max_length=max_length, gradient_checkpointing=gradient_checkpointing, lora=lora,
    )  # fmt: skip


def fit_workers(
    architecture: Architecture,
    gpu_memory: int,
    num_workers: int,
    *,
    batch_size: int,
    max_length: int,
    gradient_checkpointing: bool,
    zero_stages: tuple[int, ...] = (1, 2, 3),
    lora: LoraSettings | None = None,
) -> TrainingFit:
    """The lowest ZeRO stage that fits, with the largest micro-batch that then fits.

    If none fits, the layout that needs least; the caller must check that. Assumes that every
    example has the full length, because any example may have it.
    """
    share = -(-batch_size // num_workers)
    fits = [
        TrainingFit(
            zero_stage, size, num_workers,
            state_bytes(architecture, zero_stage, num_workers, lora),
            activation_bytes(
                architecture, size * max_length, gradient_checkpointing=gradient_checkpointing
            ),
        )
        for zero_stage in zero_stages
        for size in range(share, 0, -1)
    ]  # fmt: skip
    return next(
        (fit for fit in fits if fit.needed_bytes <= gpu_memory),
        min(fits, key=lambda fit: fit.needed_bytes),
    )
