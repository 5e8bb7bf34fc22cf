"""Sizes of LLaMA-like models, published or read from config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import GgufBase, LoraSettings, ScratchBase
from humpback_ray.errors import UserError
from humpback_ray.sizing.gguf_header import GgufHeader, gguf_location, read_header

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
        """Parameters of all layers together, without embeddings and the last norm."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + mlp + 2 * self.hidden_size)

    @property
    def characters_per_token(self) -> float:
        """Characters of a web text in one token, which the vocabulary decides.

        Measured on READMEs of Python packages: LLaMA's and Mistral's SentencePiece model of 32,000
        pieces gives 3.2, LLaMA-3's merges of 128,256 give 4.0, and the demo's own 4,096 tokens give
        3.2 on the texts that they come from. Prose without code has up to a fifth more.
        """
        return 4.0 if self.vocabulary_size >= 100_000 else 3.2

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
        return bytes_of_dtype(dtype) * self.num_parameters

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Keys and values of one token in all layers; weights in fp8 leave the cache in 16 bits."""
        values = 2 * self.num_layers * self.num_kv_heads * self.head_size
        return (2 if dtype == "fp8" else bytes_of_dtype(dtype)) * values

    def attention_flops_per_token(self, sequence_length: float) -> float:
        """Flops of one token's attention in a forward pass: scores and values of all positions."""
        return 4 * self.num_layers * self.num_heads * self.head_size * sequence_length


def bytes_of_dtype(dtype: str) -> int:
    """Bytes of one value."""
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


# Of GGUF's architectures, those that are dense decoders with gated MLPs.
DENSE_IN_GGUF = ("llama", "mistral", "qwen2", "qwen3")


def of_gguf(header: GgufHeader) -> Architecture | None:
    """Architecture of the model in a GGUF file; None where the arithmetic here does not hold."""
    if header.architecture not in DENSE_IN_GGUF or header.of_model("expert_count"):
        return None
    hidden, heads = header.of_model("embedding_length"), header.of_model("attention.head_count")
    return Architecture(
        hidden, header.of_model("feed_forward_length"), header.of_model("block_count"), heads,
        header.of_model("attention.head_count_kv", heads),
        header.of_model("vocab_size", header.metadata.get("tokenizer.ggml.tokens")),
        header.of_model("attention.key_length", hidden // heads),
        all(tensor.name != "output.weight" for tensor in header.tensors),
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
    if isinstance(base, GgufBase):
        return of_gguf(read_header(gguf_location(base.file)))
    return find_architecture(base.model)


def architecture_of(recipe: Recipe) -> Architecture:
    """Architecture of a recipe's base model.

    Raises:
        UserError: it is not known.
    """
    architecture = known_architecture(recipe)
    if architecture is None:
        base = recipe.settings.base
        assert not isinstance(base, ScratchBase)
        model = base.file if isinstance(base, GgufBase) else base.model
        raise UserError(
            f"the architecture of {model} is not known: an estimate needs a folder with the "
            "config.json of a dense model with SiLU-gated MLPs (LLaMA, Mistral, Qwen), or the hub "
            "id of LLaMA 7B to 65B or Llama 2; set settings.base.model to such a folder"
        )
    return architecture
