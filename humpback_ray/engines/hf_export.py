"""From trained weights to a folder that transformers and vLLM load."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from typing import Any

import fsspec
import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from humpback_ray.text import prompts

# A folder is taken for a model by its config.json, so that file is put in place last.
LAST_FILE = "config.json"
PARTIAL = ".export-in-progress"
# Names of dtypes in a safetensors header; https://huggingface.co/docs/safetensors.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def export_model(
    *,
    model: Any,
    weights: dict[str, torch.Tensor],
    base_model: str,
    revision: str | None,
    trust_remote_code: bool,
    output: str,
    chat_tags: tuple[str, ...],
    generation: dict[str, Any] | None,
) -> None:
    """Write the model in the form of its base: same tensor names, shapes, dtypes and config.

    Args:
        model: the transformers model the weights belong to; its parameters may be partitioned.
        weights: the full state dict, on any device.
        base_model: local folder or hub id that `model` was loaded from.
        revision: of a hub id.
        trust_remote_code: as for loading.
        output: local path or fsspec URL of a folder; other files in it stay. A local file appears
            under its name only when complete, and config.json after all others.
        chat_tags: default tags of the exported chat template.
        generation: entries for generation_config.json, such as temperature and top_p.
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    folder = _staging_folder(output)
    try:
        model.save_pretrained(
            folder, state_dict=_in_dtypes_of(weights, base_dtypes(base_model, revision))
        )
        # Over what `save_pretrained` wrote: the training's dropout and dtype are not the model's.
        AutoConfig.from_pretrained(base_model, **source).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(base_model, **source)
        tokenizer.chat_template = prompts.chat_template(*chat_tags)
        tokenizer.save_pretrained(folder)
        generation_config(model.generation_config, tokenizer, generation).save_pretrained(folder)
        _put_in_place(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def base_dtypes(base_model: str, revision: str | None) -> dict[str, torch.dtype]:
    """The dtype of every weight in the base's safetensors files; only headers are read."""
    folder = base_model
    if not os.path.isdir(folder):
        folder = snapshot_download(base_model, revision=revision, allow_patterns="*.safetensors")
    dtypes = {}
    for path in glob.glob(os.path.join(folder, "*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                if (dtype := tensors.get_slice(name).get_dtype()) in FLOATS:
                    dtypes[name] = FLOATS[dtype]
    return dtypes


def _in_dtypes_of(
    weights: dict[str, torch.Tensor], dtypes: dict[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """Cast each tensor to its base's dtype. Names that share a tensor share the cast one too.

    `save_pretrained` finds tied weights by their memory; two copies would both be written.
    """
    wanted = {_memory(weights[name]): dtypes[name] for name in weights.keys() & dtypes.keys()}
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for tensor in weights.values():
        memory = _memory(tensor)
        if memory not in cast:
            cast[memory] = tensor.detach().to("cpu", wanted.get(memory, tensor.dtype))
    return {name: cast[_memory(tensor)] for name, tensor in weights.items()}


def _memory(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def generation_config(
    base: GenerationConfig, tokenizer: Any, generation: dict[str, Any] | None
) -> GenerationConfig:
    """The base's generation config with the tokenizer's special tokens and the given entries."""
    pad = tokenizer.pad_token_id
    entries = {
        **base.to_diff_dict(),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": pad if pad is not None else tokenizer.eos_token_id,
        **(generation or {}),
    }
    if generation and generation.get("temperature", 0) > 0:
        entries["do_sample"] = True
    return GenerationConfig(**entries)


def _staging_folder(output: str) -> str:
    """A local folder to write into: inside a local output, so that a rename can finish it."""
    if "://" in output:
        return tempfile.mkdtemp(prefix="humpback-export-")
    folder = os.path.join(output, PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed here
    os.makedirs(folder)
    return folder


def _put_in_place(folder: str, output: str) -> None:
    names = sorted(os.listdir(folder), key=lambda name: (name == LAST_FILE, name))
    if "://" not in output:
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(output, name))
        return
    filesystem, path = fsspec.core.url_to_fs(output)
    filesystem.makedirs(path, exist_ok=True)
    for name in names:
        filesystem.put_file(os.path.join(folder, name), f"{path}/{name}")
