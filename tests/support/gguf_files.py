"""GGUF files as llama.cpp's converter writes them, from a small LLaMA of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize

CHAT_TEMPLATE = "{{ 'the template of another training' }}"
# Names of a layer's tensors, transformers' and GGUF's.
OF_A_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    model_folder: str,
    kind: str = "F16",
    *,
    architecture: str = "llama",
    pre_tokenizer: str = "smollm",
    tokenizer: bool = True,
    end_token: bool = True,
    extra: np.ndarray | None = None,
    metadata: dict[str, str | int] | None = None,
) -> Path:
    """Write the model of a folder as a GGUF file.

    Args:
        path: of the file.
        model_folder: a LLaMA with a byte-level BPE tokenizer.
        kind: type of the matrices; norms are F32.
        architecture: name to write.
        pre_tokenizer: GGUF's name for the way to cut a text into words.
        tokenizer: write the tokenizer.
        end_token: write the id of the tokenizer's end token.
        extra: one more tensor, which no LLaMA has.
        metadata: further entries.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    writer = GGUFWriter(path, architecture)
    _write_sizes(writer, model.config)
    if tokenizer:
        _write_tokenizer(writer, Path(model_folder), model.config, pre_tokenizer)
    if tokenizer and end_token:
        writer.add_eos_token_id(model.config.eos_token_id)
    for key, value in (metadata or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key, value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        matrix = tensor.numpy()
        for projection, heads in (
            ("q_proj", model.config.num_attention_heads),
            ("k_proj", model.config.num_key_value_heads),
        ):
            if projection in name:
                matrix = _permuted(matrix, heads)
        stored = GGMLQuantizationType.F32 if matrix.ndim == 1 else GGMLQuantizationType[kind]
        writer.add_tensor(_gguf_name(name), quantize(matrix, stored), raw_dtype=stored)
    if extra is not None:
        writer.add_tensor("extra.weight", extra)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter, folder: Path, config: Any, pre_tokenizer: str) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    special = {token["content"] for token in content["added_tokens"]}
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name in OTHERS:
        return f"{OTHERS[name]}.weight"
    _, _, number, part = name.split(".", 3)
    return f"blk.{number}.{OF_A_LAYER[part]}.weight"


def _permuted(matrix: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows in llama.cpp's order, where the two halves of a rotation stand side by side."""
    rows = matrix.reshape(num_heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(matrix.shape))
