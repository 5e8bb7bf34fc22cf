"""Seconds of generation and of a training step, from data sheets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from humpback_ray.config.settings import (
    LoraSettings,
)
from humpback_ray.sizing.architecture import Architecture, bytes_of_dtype
from humpback_ray.sizing.hardware import GpuModel, Hardware
from humpback_ray.sizing.memory import EngineFit, TrainingFit

# --- efficiencies: shares of the data sheet's peak that a whole run reaches -----------------------

# Full fine-tuning. LLM Foundry's published table (github.com/mosaicml/llm-foundry, scripts/train/
# benchmarking) has 0.36 to 0.64 for 7B to 70B on 8 to 64 A100 and H100 at 2,048 tokens.
TRAINING_MFU = 0.45
# Prompts and decoding. Together they come within 20% of vLLM's own figures for Llama 7B on one and
# 70B on four A100 (github.com/vllm-project/vllm/pull/5046).
PREFILL_MFU = 0.5
DECODE_BANDWIDTH_SHARE = 0.6
# Share of the link's rate that collective operations reach. A guess that `probe` replaces.
COLLECTIVE_SHARE = 0.7


@dataclass(frozen=True)
class GenerationWork:
    """Rows to generate, with the mean tokens of each."""

    num_rows: int
    prompt_tokens: float  # computed anew for every row
    output_tokens: float
    shared_tokens: float = 0.0  # at the head of every prompt; computed once, read by every token


def generation_seconds(
    architecture: Architecture,
    gpu: GpuModel,
    fit: EngineFit,
    *,
    num_engines: int,
    work: GenerationWork,
    dtype: str = "auto",
    max_sequences: int | None = None,
) -> float:
    """Seconds of compute-bound prompts, then of decoding bound by memory bandwidth or compute.

    The pass over the prompt yields the first output token. Tensor parallelism adds two sums over
    its GPUs of every token's hidden vector in each layer.
    """
    flops = gpu.bf16_tflops * 1e12 * fit.num_gpus * PREFILL_MFU
    bandwidth = gpu.memory_gb_per_second * 1e9 * fit.num_gpus * DECODE_BANDWIDTH_SHARE
    length = work.shared_tokens + work.prompt_tokens + work.output_tokens / 2
    per_token = 2 * architecture.num_parameters + architecture.attention_flops_per_token(length)
    per_token /= flops
    # A sum over n GPUs moves 2 (n - 1) / n times its bytes over each link.
    others = 1 - 1 / fit.tensor_parallel_size
    summed = 2 * architecture.num_layers * architecture.hidden_size * bytes_of_dtype(dtype)
    per_token += 2 * others * summed / (gpu.link_gb_per_second * 1e9 * COLLECTIVE_SHARE)
    own_tokens = work.prompt_tokens + work.output_tokens
    limit = min(max_sequences or gpu.max_sequences, work.num_rows / num_engines)
    num_sequences = max(min(limit, fit.num_kv_tokens / own_tokens), 1)
    kv_read = num_sequences * length * architecture.kv_bytes_per_token(dtype)
    step = max((architecture.weight_bytes(dtype) + kv_read) / bandwidth, num_sequences * per_token)
    row = work.prompt_tokens * per_token
    row += max(work.output_tokens - 1, 0) * step / num_sequences
    return work.num_rows * row / num_engines


def step_seconds(
    architecture: Architecture,
    hardware: Hardware,
    fit: TrainingFit,
    *,
    batch_size: int,
    sequence_length: float,
    lora: LoraSettings | None = None,
) -> float:
    """Seconds of an optimizer step: the longer of arithmetic and communication, which overlap.

    6 N flops for each token, 4 where weights are frozen, and three forward passes' worth of
    attention. ZeRO-3 gathers the parameters twice and scatters the gradients once for each
    micro-batch (arXiv 1910.02054).
    """
    attention = architecture.attention_flops_per_token(sequence_length)
    total, trained = architecture.num_parameters, architecture.num_trained(lora)
    per_token = (6 * total if lora is None else 4 * total + 6 * trained) + 3 * attention
    flops = hardware.gpu.bf16_tflops * 1e12 * TRAINING_MFU  # of one worker
    # The slowest worker decides: the one with an example more than others.
    compute = math.ceil(batch_size / fit.num_workers) * sequence_length * per_token / flops
    if fit.num_workers == 1:
        return compute
    accumulation = math.ceil(batch_size / (fit.num_workers * fit.micro_batch_size))
    moved = {
        0: 2 * trained, 1: 2 * trained, 2: (1 + accumulation) * trained,
        3: accumulation * (2 * total + trained),
    }[fit.zero_stage]  # fmt: skip
    link = hardware.gpu.link_gb_per_second
    if fit.num_workers > hardware.gpus_per_node:
        link = min(link, hardware.gpu.network_gb_per_second)
    return max(compute, 2 * moved / (link * 1e9 * COLLECTIVE_SHARE))
