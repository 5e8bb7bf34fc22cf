"""Before paying: what fits on which GPUs, and how long a recipe's run takes on them.

Arithmetic over published architectures and data sheets; no GPU, torch, ray or vLLM is touched.
Bytes, tokens and seconds unless a name says otherwise; GiB is 2**30 bytes, GB is 10**9.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.config import (
    LoraSettings,
    Recipe,
    ScratchBase,
    SelectionSettings,
    TrainingSettings,
)
from humpback_ray.text.schedule import schedule

GIB = 2**30

# --- efficiencies: shares of the data sheet's peak that a whole run reaches -----------------------

# Full fine-tuning. LLM Foundry's published table (github.com/mosaicml/llm-foundry, scripts/train/
# benchmarking) has 0.36 to 0.64 for 7B to 70B on 8 to 64 A100 and H100 at 2,048 tokens.
TRAINING_MFU = 0.45
# Prompts and decoding. Together they come within 20% of vLLM's own figures for Llama 7B on one and
# 70B on four A100 (github.com/vllm-project/vllm/pull/5046).
PREFILL_MFU = 0.5
DECODE_BANDWIDTH_SHARE = 0.6
# Share of the link's rate that collective operations reach. Ours, to be replaced by `probe`.
COLLECTIVE_SHARE = 0.7
# Beside weights and KV cache: context, workspace, CUDA graphs. Ours, to be replaced by `probe`.
ENGINE_WORKSPACE = 2 * GIB
# Beside states and activations: context, communication buffers, fragmentation. Ours, likewise.
TRAINING_WORKSPACE = 4 * GIB
# Starting engines or workers, reading weights, writing the result. Ours, likewise.
STAGE_START_HOURS = 0.1
# Decoding reads all weights for each step. With room for fewer sequences of the full context than
# this, more GPUs for each engine give more than more engines do. Ours.
MIN_SEQUENCES = 4

# --- the paper's rows, where a run has none yet ---------------------------------------------------

NUM_SEGMENTS = 502_133
NUM_SEED_PAIRS = 3_200
NUM_EVALUATION_PROMPTS = 805  # AlpacaEval
SELECTED_SHARE = {4.5: 41_821 / NUM_SEGMENTS, 4.0: 195_043 / NUM_SEGMENTS}  # A_5^(2), A_4^(2)
# Mean characters of instruction and response (paper, Table 1).
SEED_CHARACTERS = 148 + 1072
SELECTED_CHARACTERS = 115 + 1663
CANDIDATE_CHARACTERS = (352, 1722)
CHARACTERS_PER_TOKEN = 4  # English prose; ours
TEMPLATE_TOKENS = 70  # turn markers, tags and the backward request; ours
RUBRIC_TOKENS = 450  # shared by all rating prompts; ours
RATIONALE_TOKENS = 150  # ours
ANSWER_TOKENS = 400  # of an evaluation; ours


# --- hardware -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU as its data sheet has it."""

    name: str
    memory_gib: float  # what PyTorch reports as total capacity, less than the round figure
    bf16_tflops: float  # dense; the sheets print twice that, with sparsity
    memory_gb_per_second: float
    link_gb_per_second: float  # to the other GPUs of a node, one direction
    network_gb_per_second: float  # of a node of eight, all its adapters together

    @property
    def memory(self) -> int:
        return int(self.memory_gib * GIB)

    @property
    def max_sequences(self) -> int:
        """vLLM's default of max_num_seqs (0.29, EngineArgs)."""
        return 1024 if self.memory_gib >= 70 and not self.name.startswith("A100") else 256


# Compute, bandwidth and links: the vendor's data sheets, checked in November 2026 against pages
# that quote them.
#   A100  nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
#         nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf (SXM; NVLink 600 GB/s both ways)
#   H100  resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet (SXM; 900 GB/s)
#   H200  nvidia.com/en-us/data-center/h200 (SXM; 900 GB/s)
#   L40S  nvidia.com/en-us/data-center/l40s (PCIe Gen4 x16: 64 GB/s both ways, as the next two)
#   L4    nvidia.com/en-us/data-center/l4
#   A10G  d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf
# Networks: eight adapters of 200 Gbit/s (DGX A100) or 400 Gbit/s (DGX H100 and H200); 100 Gbit/s
# for the PCIe cards, as AWS's largest G5 and G6 machines have.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40", 39.5, 312, 1555, 300, 200),
        Gpu("A100-80", 79.1, 312, 2039, 300, 200),
        Gpu("H100", 79.1, 989, 3350, 450, 400),
        Gpu("H200", 139.0, 989, 4800, 450, 400),
        Gpu("L40S", 44.4, 362, 864, 32, 12.5),
        Gpu("L4", 22.0, 121, 300, 32, 12.5),
        Gpu("A10G", 22.0, 70, 600, 32, 12.5),
    )
}


@dataclass(frozen=True)
class Hardware:
    """Nodes of equal GPUs."""

    gpu: Gpu
    gpus_per_node: int
    num_nodes: int = 1

    @property
    def num_gpus(self) -> int:
        return self.gpus_per_node * self.num_nodes


def parse_hardware(text: str, num_nodes: int = 1) -> Hardware:
    """`8xH100` and a number of nodes as hardware.

    Raises:
        ValueError: not of that form, an unknown GPU (with the nearest known one), no node.
    """
    example = "write COUNTxGPU for one node, for example 8xH100"
    match = re.fullmatch(r"(\d+)x([\w.-]+)", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) < 1:
        raise ValueError(f"--hardware {text!r}: {example}; GPUs: {', '.join(GPUS)}")
    if num_nodes < 1:
        raise ValueError(f"--nodes {num_nodes}: at least one node is needed")
    name = match[2].upper().removesuffix("GB")
    if name not in GPUS:
        close = [known for known in GPUS if known.startswith(name)]
        close = close or difflib.get_close_matches(name, GPUS, n=1, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"--hardware {text!r}: unknown GPU {match[2]!r}; {hint}"
                         f"{example}; GPUs: {', '.join(GPUS)}")  # fmt: skip
    return Hardware(GPUS[name], int(match[1]), num_nodes)


def parse_price(text: str) -> float:
    """`2.5/gpu-hour` or `2.5` as money for one GPU and hour.

    Raises:
        ValueError: not of that form, or negative.
    """
    number, _, unit = text.strip().partition("/")
    # float() would also take nan, inf and 1_0.
    if not re.fullmatch(r"\d+(\.\d+)?", number) or unit not in ("", "gpu-hour"):
        raise ValueError(f"--price {text!r}: write what one GPU costs for one hour as a number of "
                         "at least 0, for example 2.5/gpu-hour")  # fmt: skip
    return float(number)


# --- architectures --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """A dense decoder with gated MLPs, as LLaMA, Mistral and Qwen are. Biases are left out."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocabulary_size: int
    head_size: int
    tied_embeddings: bool = False

    @property
    def num_layer_parameters(self) -> int:
        """Of all layers together, without embeddings and the last norm."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + mlp + 2 * self.hidden_size)

    @property
    def num_parameters(self) -> int:
        embeddings = (1 if self.tied_embeddings else 2) * self.vocabulary_size * self.hidden_size
        return self.num_layer_parameters + embeddings + self.hidden_size

    def num_trained(self, lora: LoraSettings | None) -> int:
        """Parameters that a training changes: all, or those of the adapters of its layers."""
        if lora is None:
            return self.num_parameters
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        widths = {
            "q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys,
            "o_proj": queries + hidden, "gate_proj": hidden + inner, "up_proj": hidden + inner,
            "down_proj": inner + hidden,
        }  # fmt: skip
        names = widths if isinstance(lora.target_modules, str) else lora.target_modules
        return self.num_layers * lora.rank * sum(widths.get(name, 0) for name in names)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights. vLLM's fp8 covers the layers; embeddings stay in 16 bits."""
        if dtype == "fp8":
            return 2 * self.num_parameters - self.num_layer_parameters
        return _num_bytes(dtype) * self.num_parameters

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Keys and values of one token in all layers; weights in fp8 leave the cache in 16 bits."""
        values = 2 * self.num_layers * self.num_kv_heads * self.head_size
        return (2 if dtype == "fp8" else _num_bytes(dtype)) * values

    def attention_flops_per_token(self, sequence_length: float) -> float:
        """Of one forward pass, for scores and their values over the whole sequence."""
        return 4 * self.num_layers * self.num_heads * self.head_size * sequence_length


def _num_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> Architecture:
    return Architecture(hidden, intermediate, layers, heads, kv_heads, 32_000, 128)


# LLaMA (arXiv 2302.13971, Table 2; MLP sizes from the released config.json) and Llama 2 70B
# (arXiv 2307.09288). The 33B model is called 30b on the hub.
PUBLISHED = {
    "7": _llama(4096, 11008, 32, 32, 32),
    "13": _llama(5120, 13824, 40, 40, 40),
    "33": _llama(6656, 17920, 60, 52, 52),
    "65": _llama(8192, 22016, 80, 64, 64),
    "70": _llama(8192, 28672, 80, 64, 8),
}
PUBLISHED["30"] = PUBLISHED["33"]


def find_architecture(model: str) -> Architecture | None:
    """Architecture of a model folder or URL by its config.json, of LLaMA 1 and 2 by the hub id.

    None where it is not known: another hub id, or a model that is no dense decoder with gated MLPs.
    """
    config = storage.read_json(storage.join(storage.absolute(model), "config.json"))
    if config is not None:
        return read_architecture(config)
    match = re.fullmatch(r"llama-?(?:2-)?(\d+)b(?:-hf)?", model.rpartition("/")[2].lower())
    return PUBLISHED.get(match[1]) if match else None


def read_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Architecture in a transformers config.json; None where the arithmetic here does not hold."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "vocab_size")  # fmt: skip
    is_mixture = any("expert" in key for key in config)
    if is_mixture or config.get("hidden_act") != "silu" or any(key not in config for key in sizes):
        return None
    hidden, intermediate, layers, heads, vocabulary = (int(config[key]) for key in sizes)
    return Architecture(
        hidden, intermediate, layers, heads,
        int(config.get("num_key_value_heads") or heads),
        vocabulary,
        int(config.get("head_dim") or hidden // heads),
        bool(config.get("tie_word_embeddings", False)),
    )  # fmt: skip


def known_architecture(recipe: Recipe) -> Architecture | None:
    """Architecture of a recipe's base model, or None."""
    base = recipe.settings.base
    if isinstance(base, ScratchBase):
        head_size = base.hidden_size // base.num_heads
        return Architecture(
            base.hidden_size, base.intermediate_size, base.num_layers, base.num_heads,
            base.num_heads, base.vocabulary_size, head_size,
        )  # fmt: skip
    return find_architecture(base.model)


def architecture_of(recipe: Recipe) -> Architecture:
    """Architecture of a recipe's base model.

    Raises:
        ValueError: it is not known.
    """
    architecture = known_architecture(recipe)
    if architecture is None:
        assert not isinstance(recipe.settings.base, ScratchBase)
        model = recipe.settings.base.model
        raise ValueError(
            f"the architecture of {model} is not known: an estimate needs a folder with the "
            "config.json of a dense model with SiLU-gated MLPs (LLaMA, Mistral, Qwen), or the hub "
            "id of LLaMA 7B to 65B or Llama 2; set settings.base.model to such a folder"
        )
    return architecture


# --- engines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineFit:
    """How one engine lies on GPUs. Bytes are those of each GPU."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    weight_bytes: float
    kv_bytes: float
    num_kv_tokens: int  # room of the KV cache for tokens of all sequences

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


def place_engine(
    architecture: Architecture, dtype: str, tensor: int, pipeline: int, usable: float
) -> EngineFit:
    """What an engine of that layout leaves of `usable` bytes of each GPU for its KV cache.

    Negative where the weights do not fit.
    """
    weights = architecture.weight_bytes(dtype) / (tensor * pipeline)
    room = usable - weights - ENGINE_WORKSPACE
    # A KV head is never split: with more GPUs than heads it is kept several times.
    parts = min(tensor, architecture.num_kv_heads) * pipeline
    num_tokens = math.floor(room * parts / architecture.kv_bytes_per_token(dtype))
    return EngineFit(tensor, pipeline, weights, room, num_tokens)


def smallest_engine(
    architecture: Architecture,
    hardware: Hardware,
    *,
    dtype: str,
    context_length: int,
    gpu_memory_utilization: float,
) -> EngineFit:
    """The layout with the fewest GPUs that holds MIN_SEQUENCES of the full context, or the largest.

    Replicas before tensor parallelism, tensor parallelism within a node before pipelines across
    nodes. Whether the largest holds one sequence is for the caller to see.
    """
    sizes = [n for n in _tensor_parallel_sizes(architecture) if n <= hardware.gpus_per_node]
    layouts = [(n, 1) for n in sizes] + [(sizes[-1], n) for n in range(2, hardware.num_nodes + 1)]
    usable = hardware.gpu.memory * gpu_memory_utilization
    fits = [place_engine(architecture, dtype, *layout, usable) for layout in layouts]
    roomy = (fit for fit in fits if fit.num_kv_tokens >= MIN_SEQUENCES * context_length)
    return next(roomy, fits[-1])


def _tensor_parallel_sizes(architecture: Architecture) -> list[int]:
    """Powers of two that divide the attention heads, which vLLM asks for."""
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
        ValueError: what is needed, what there is, and the settings that would make it fit.
    """
    sizes = _tensor_parallel_sizes(architecture)
    tensor, pipeline = tensor_parallel_size, pipeline_parallel_size
    if architecture.num_heads % tensor:
        raise ValueError(
            f"placement.engine.tensor_parallel_size {tensor} does not divide the model's "
            f"{architecture.num_heads} attention heads: set it to one of "
            f"{', '.join(map(str, sizes))}"
        )
    usable = gpu_memory * gpu_memory_utilization

    def num_tokens(tensor: int, dtype: str) -> int:
        return place_engine(architecture, dtype, tensor, pipeline, usable).num_kv_tokens

    there_is = num_tokens(tensor, dtype)
    if there_is >= context_length:
        return
    larger = [n for n in sizes if n > tensor and num_tokens(n, dtype) >= context_length]
    weights, cache = engine_bytes(architecture, dtype, context_length, tensor, pipeline)
    needed = weights + cache + ENGINE_WORKSPACE
    ways_out = [
        f"placement.engine.tensor_parallel_size to {larger[0]}" if larger
        else "placement.engine.pipeline_parallel_size higher (no tensor_parallel_size is enough)",
        f"settings.context_length to at most {there_is}" if there_is > 0
        else "no settings.context_length that would do (the weights alone do not fit)",
        "fp8 weights (they fit)" if dtype != "fp8" and num_tokens(tensor, "fp8") >= context_length
        else f"GPUs of at least {_gib(needed / gpu_memory_utilization)} (fp8 weights do not fit)",
    ]  # fmt: skip
    raise ValueError(
        f"the model does not fit: each GPU needs {_gib(needed)} (weights {_gib(weights)}, KV cache "
        f"of one sequence of {context_length} tokens {_gib(cache)}, workspace "
        f"{_gib(ENGINE_WORKSPACE)}) and gives {_gib(usable)} ({gpu_memory_utilization:g} of "
        f"{_gib(gpu_memory)}): set {', or '.join(ways_out)}"
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


@dataclass(frozen=True)
class GenerationWork:
    """Rows that go through engines, with mean tokens of each."""

    num_rows: int
    prompt_tokens: float  # computed for every row
    output_tokens: float
    shared_tokens: float = 0.0  # at the head of every prompt; computed once, read by every token


def generation_seconds(
    architecture: Architecture,
    gpu: Gpu,
    fit: EngineFit,
    *,
    num_engines: int,
    work: GenerationWork,
    dtype: str = "auto",
    max_sequences: int | None = None,
) -> float:
    """Prompts bound by compute, then decoding bound by memory bandwidth or compute.

    The first output token comes out of the prompt's own pass. Tensor parallelism adds two sums over
    its GPUs of every token's hidden vector in each layer.
    """
    flops = gpu.bf16_tflops * 1e12 * fit.num_gpus * PREFILL_MFU
    bandwidth = gpu.memory_gb_per_second * 1e9 * fit.num_gpus * DECODE_BANDWIDTH_SHARE
    length = work.shared_tokens + work.prompt_tokens + work.output_tokens / 2
    per_token = 2 * architecture.num_parameters + architecture.attention_flops_per_token(length)
    per_token /= flops
    # A sum over n GPUs moves 2 (n - 1) / n times its bytes over each link.
    others = 1 - 1 / fit.tensor_parallel_size
    summed = 2 * architecture.num_layers * architecture.hidden_size * _num_bytes(dtype)
    per_token += 2 * others * summed / (gpu.link_gb_per_second * 1e9 * COLLECTIVE_SHARE)
    own_tokens = work.prompt_tokens + work.output_tokens
    limit = min(max_sequences or gpu.max_sequences, work.num_rows / num_engines)
    num_sequences = max(min(limit, fit.num_kv_tokens / own_tokens), 1)
    kv_read = num_sequences * length * architecture.kv_bytes_per_token(dtype)
    step = max((architecture.weight_bytes(dtype) + kv_read) / bandwidth, num_sequences * per_token)
    row = work.prompt_tokens * per_token
    row += max(work.output_tokens - 1, 0) * step / num_sequences
    return work.num_rows * row / num_engines


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingFit:
    """How a training lies on GPUs. Bytes are those of each GPU."""

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

    2 bytes of parameters, 2 + 4 of gradients (summed in fp32), 12 of master weights and Adam's
    moments for each parameter that is trained; of a frozen one the first 2 alone. Stages 2 and 3
    are DeepSpeed's estimators as they stand
    (https://deepspeed.readthedocs.io/en/latest/memory.html); 0 and 1 follow from the same parts.
    """
    trained = architecture.num_trained(lora)
    frozen = 2 * (architecture.num_parameters - trained) if lora else 0
    largest = architecture.hidden_size * max(
        architecture.vocabulary_size, architecture.intermediate_size
    )
    return {
        0: frozen + 20 * trained,
        1: frozen + 8 * trained + 12 * trained / num_workers,
        2: frozen + 2 * trained + 18 * trained / num_workers,
        3: 4 * largest + (frozen + 18 * trained) / num_workers,
    }[zero_stage]


def activation_bytes(
    architecture: Architecture, tokens: int, *, gradient_checkpointing: bool
) -> float:
    """Activations of a micro-batch of so many tokens, in 16 bits, with fused attention.

    34 bytes for each token, hidden unit and layer (arXiv 2205.05198, equation 1, without the
    scores); with checkpointing the inputs of all layers and one layer in full. Then the logits in
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
    """How a training lies on hardware: `fit_workers` with as many workers as divide the batch."""
    num_workers = max(n for n in range(1, hardware.num_gpus + 1) if batch_size % n == 0)
    return fit_workers(
        architecture, hardware.gpu.memory, num_workers, batch_size=batch_size,
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

    Where nothing fits: what needs least, which is for the caller to see. Every example is taken to
    have the full length, because one may have it.
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


def step_seconds(
    architecture: Architecture,
    hardware: Hardware,
    fit: TrainingFit,
    *,
    batch_size: int,
    sequence_length: float,
    lora: LoraSettings | None = None,
) -> float:
    """One optimizer step: the longer of arithmetic and communication, which DeepSpeed overlaps.

    6 N flops for each token, 4 where weights are frozen, and three forward passes' worth of
    attention. ZeRO-3 gathers the parameters twice and scatters the gradients once for each
    micro-batch (arXiv 1910.02054).
    """
    attention = architecture.attention_flops_per_token(sequence_length)
    total, trained = architecture.num_parameters, architecture.num_trained(lora)
    per_token = (6 * total if lora is None else 4 * total + 6 * trained) + 3 * attention
    flops = fit.num_workers * hardware.gpu.bf16_tflops * 1e12 * TRAINING_MFU
    compute = batch_size * sequence_length * per_token / flops
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


# --- a recipe's stages ----------------------------------------------------------------------------


@dataclass(frozen=True)
class StageEstimate:
    """One stage as a person reads it. Without hours: not estimated, or it does not fit."""

    path: str
    fits: str
    layout: str
    hours: float | None


def estimate_stages(
    recipe: Recipe,
    kinds: Mapping[str, str],
    records: Mapping[str, Mapping[str, Any]],
    hardware: Hardware,
    num_rows: int | None = None,
) -> list[StageEstimate]:
    """Every stage that runs on GPUs, in order.

    Args:
        kinds: kind of every stage by its path, in the order in which they run.
        records: records of the finished stages by path: they cost nothing more, and their rows
            count instead of the paper's.
        num_rows: segments, instead of the run's or the paper's.

    Raises:
        ValueError: the base model's architecture is not known, or there are no rows.
    """
    if num_rows is not None and num_rows < 1:
        raise ValueError(f"--rows {num_rows}: at least one segment is needed")
    estimator = _Estimator(recipe, architecture_of(recipe), records, hardware, num_rows)
    return [
        StageEstimate(path, "done", "-", 0.0) if path in records else estimator.stage(path, kind)
        for path, kind in kinds.items()
        if kind in ("augment", "rate", "evaluate", "finetune")
    ]


@dataclass(frozen=True)
class _Estimator:
    recipe: Recipe
    architecture: Architecture
    records: Mapping[str, Mapping[str, Any]]
    hardware: Hardware
    num_rows: int | None

    def stage(self, path: str, kind: str) -> StageEstimate:
        return self.training(path) if kind == "finetune" else self.generation(path, kind)

    def generation(self, path: str, kind: str) -> StageEstimate:
        settings, engine = self.recipe.settings, self.recipe.placement.engine
        if kind == "rate" and settings.rating.endpoint:
            return StageEstimate(path, "rated elsewhere, at the endpoint's price", "-", 0.0)
        is_fp8 = kind == "rate" and settings.rating.weights == "fp8"
        dtype = "fp8" if is_fp8 else settings.dtype
        fit = smallest_engine(
            self.architecture, self.hardware, dtype=dtype,
            context_length=settings.context_length,
            gpu_memory_utilization=engine.gpu_memory_utilization,
        )  # fmt: skip
        hardware = self.hardware
        if fit.num_kv_tokens < settings.context_length:
            return self.too_large(
                path, f"an engine on {fit.num_gpus} GPUs", fit.weight_bytes + ENGINE_WORKSPACE
            )
        num_engines = hardware.gpus_per_node // fit.tensor_parallel_size
        num_engines *= hardware.num_nodes // fit.pipeline_parallel_size
        seconds = generation_seconds(
            self.architecture, hardware.gpu, fit, num_engines=num_engines,
            work=self.work(kind), dtype=dtype,
            max_sequences=engine.max_num_seqs,
        )  # fmt: skip
        pipeline = fit.pipeline_parallel_size
        sequences = fit.num_kv_tokens // settings.context_length
        return StageEstimate(
            path,
            f"weights {fit.weight_bytes / GIB:.1f} + KV {fit.kv_bytes / GIB:.1f} of "
            f"{hardware.gpu.memory_gib} GiB; {sequences} x {settings.context_length} tokens",
            f"{num_engines} engines x TP{fit.tensor_parallel_size}"
            + (f" PP{pipeline}" if pipeline > 1 else ""),
            seconds / 3600 + STAGE_START_HOURS,
        )

    def training(self, path: str) -> StageEstimate:
        settings = training_settings(self.recipe, path)
        num_examples, tokens = self.examples(path)
        batch_size, num_steps = schedule(num_examples, settings)
        checkpointing = self.recipe.placement.training.gradient_checkpointing
        fit = fit_training(
            self.architecture, self.hardware, batch_size=batch_size,
            max_length=settings.max_length, gradient_checkpointing=checkpointing,
            lora=settings.lora,
        )  # fmt: skip
        if fit.needed_bytes > self.hardware.gpu.memory:
            what = f"ZeRO-{fit.zero_stage} of batches of {batch_size} on {fit.num_workers} GPUs"
            return self.too_large(path, what, fit.needed_bytes)
        length = min(tokens, settings.max_length)
        step = step_seconds(
            self.architecture, self.hardware, fit, batch_size=batch_size,
            sequence_length=length, lora=settings.lora,
        )  # fmt: skip
        return StageEstimate(
            path,
            f"states {fit.state_bytes / GIB:.1f} + activations {fit.activation_bytes / GIB:.1f} "
            f"of {self.hardware.gpu.memory_gib} GiB",
            f"ZeRO-{fit.zero_stage} x {fit.num_workers} GPUs, micro-batch "
            f"{fit.micro_batch_size * settings.max_length:,} tokens, {num_steps} steps, "
            f"{batch_size * length / step:,.0f} tokens/s",
            num_steps * step / 3600 + STAGE_START_HOURS,
        )

    def too_large(self, path: str, what: str, num_bytes: float) -> StageEstimate:
        memory = self.hardware.gpu.memory_gib
        return StageEstimate(
            path, f"does not fit: {what} needs {_gib(num_bytes)} of {memory} GiB", "-", None
        )

    def segments(self) -> int:
        kept = self.records.get("segments", {}).get("outcomes", {}).get("kept")
        return self.num_rows or kept or NUM_SEGMENTS

    def work(self, kind: str) -> GenerationWork:
        instruction, response = (n / CHARACTERS_PER_TOKEN for n in CANDIDATE_CHARACTERS)
        settings = self.recipe.settings
        if kind == "augment":
            output = min(instruction, settings.augmentation.max_tokens)
            num_rows = self.segments() * settings.num_candidates
            return GenerationWork(num_rows, TEMPLATE_TOKENS + response, output)
        if kind == "evaluate":
            output = min(ANSWER_TOKENS, settings.evaluation.sampling.max_tokens)
            return GenerationWork(NUM_EVALUATION_PROMPTS, 2 * TEMPLATE_TOKENS, output)
        rating = settings.rating
        repeats = settings.num_candidates
        repeats *= rating.num_samples if rating.method == "mean" else 1
        output = min(RATIONALE_TOKENS, rating.sampling.max_tokens)
        return GenerationWork(
            self.segments() * repeats,
            TEMPLATE_TOKENS + instruction + response,
            1 if rating.method == "expected" else output,
            RUBRIC_TOKENS,
        )

    def examples(self, path: str) -> tuple[int, float]:
        """Number of examples of a training, and their mean tokens."""
        base = self.recipe.settings.base
        made = self.records.get(path.replace("model", "examples"), {}).get("num_rows")
        if path == "base/model" and isinstance(base, ScratchBase):
            return made or self.segments(), base.sequence_length
        num_seed = self.recipe.settings.seed.max_pairs or NUM_SEED_PAIRS
        num_seed = self.records.get("forward-0/examples", {}).get("num_rows", num_seed)
        num_chosen = 0
        if path.startswith("iter-"):
            selection = self.recipe.settings.selection
            num_chosen = made - num_seed if made else num_selected(selection, self.segments())
        characters = num_seed * SEED_CHARACTERS + num_chosen * SELECTED_CHARACTERS
        num_examples = num_seed + num_chosen
        return num_examples, characters / num_examples / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS


def training_settings(recipe: Recipe, path: str) -> TrainingSettings:
    """Settings of the training that a stage is."""
    settings = recipe.settings
    if path == "backward/model":
        return settings.backward_training
    if path == "base/model" and isinstance(settings.base, ScratchBase):
        return settings.base.training
    return settings.forward_training


def num_selected(selection: SelectionSettings, num_segments: int) -> int:
    """Pairs that self-curation takes; the paper's shares, of scores from 4.5 or from 4."""
    if selection.method == "best":
        return min(selection.num_best, num_segments)
    share = selection.share
    if selection.method == "threshold":
        share = next((s for k, s in SELECTED_SHARE.items() if selection.k >= k), 1.0)
    return round(share * num_segments)
