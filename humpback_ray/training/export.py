"""From trained weights to a folder that transformers and vLLM load.

The folder holds what the training decides: weights, config.json and tokenizer. `wrapping` then
writes the files that say how the model is asked.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from humpback_ray import storage
from humpback_ray.training.lora import base_name
from humpback_ray.training.task import BaseModel
from humpback_ray.training.wrapping import without_sampling

# transformers recognises a model folder by its config.json, so that file is put in place last.
LAST_FILE = "config.json"
PARTIAL = ".export-in-progress"
SHARD_BYTES = 5 * 10**9  # of one file of weights; save_pretrained's default was this for years
# Names of dtypes in a safetensors header, https://huggingface.co/docs/safetensors.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def export_model(
    *,
    model: Any,
    weights: Iterable[tuple[str, torch.Tensor]],
    is_writer: bool = True,
    base: BaseModel,
    output: str,
) -> None:
    """Write the model in the form of its base: same tensor names, shapes, dtypes and config.

    Nothing in the folder depends on tags or sampling: `write_wrapping` adds the chat template and
    the sampling defaults. At most one file of weights, of SHARD_BYTES at most, is in memory.

    Args:
        model: the transformers model the weights belong to; its parameters may be partitioned, and
            it may have adapters in it, which `weights` must not.
        weights: name and value of every tensor, on any device; each value is read before the
            iterator advances.
        is_writer: False in a process that only iterates over `weights` and writes nothing.
        base: the model that `model` was loaded from, as a local folder or hub id.
        output: local path or fsspec URL of a folder; other files in it stay. A local file appears
            under its name only when complete, and config.json after all others.
    """
    if not is_writer:
        deque(weights, maxlen=0)
        return
    folder = _staging_folder(output)
    try:
        dtypes = base_dtypes(base)
        # Tied weights have a second name, which only some bases' files contain.
        second_names = set(model.all_tied_weights_keys) - dtypes.keys()
        stored = (
            (name, _as_in_base(tensor, dtypes.get(name, tensor.dtype)))
            for name, tensor in weights
            if name not in second_names
        )
        is_converted = not dtypes.keys() <= {base_name(name) for name in model.state_dict()}
        if is_converted and getattr(model, "_weight_conversions", None):
            # The files have another form than the model: only transformers can convert it back.
            model.save_pretrained(folder, state_dict=dict(stored))
        else:
            _write_weights(folder, stored)
        AutoConfig.from_pretrained(base.location, **base.load_options).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(base.location, **base.load_options)
        tokenizer.chat_template = None  # the training has not seen the base's own template
        tokenizer.save_pretrained(folder)
        generation_config(model.generation_config, tokenizer).save_pretrained(folder)
        _put_in_place(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def base_dtypes(base: BaseModel) -> dict[str, torch.dtype]:
    """The dtype of every weight in the base's safetensors files, read from their headers."""
    folder = base.location
    if not os.path.isdir(folder):
        folder = snapshot_download(
            base.location, revision=base.revision, allow_patterns="*.safetensors"
        )
    dtypes = {}
    for path in glob.glob(os.path.join(folder, "*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                if (dtype := tensors.get_slice(name).get_dtype()) in FLOATS:
                    dtypes[name] = FLOATS[dtype]
    return dtypes


def _as_in_base(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # `copy`, because DeepSpeed frees a gathered tensor when the iterator advances.
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _write_weights(folder: str, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write `model.safetensors`, or several files and an index in transformers' form."""
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    num_held = num_bytes = 0

    def write() -> None:
        save_file(held, os.path.join(folder, f"shard-{len(shards)}"), metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in weights:
        if held and num_held + tensor.nbytes > SHARD_BYTES:
            write()
            num_held = 0
        held[name] = tensor
        num_held += tensor.nbytes
        num_bytes += tensor.nbytes
    write()

    files = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    files = files if len(shards) > 1 else ["model.safetensors"]
    for number, file in enumerate(files):
        os.rename(os.path.join(folder, f"shard-{number}"), os.path.join(folder, file))
    if len(shards) > 1:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as stream:
            json.dump(index, stream, indent=1)


def generation_config(base: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """The base's generation config without sampling, with the tokenizer's special tokens."""
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        **without_sampling(base.to_diff_dict())
        | {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": pad if pad is not None else tokenizer.eos_token_id,
        }
    )


def _staging_folder(output: str) -> str:
    """A local folder to write into; inside a local output, so that a rename can finish it."""
    if "://" in output:
        return tempfile.mkdtemp(prefix="humpback-export-")
    folder = os.path.join(output, PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)  # a killed worker may have left one
    os.makedirs(folder)
    return folder


def _put_in_place(folder: str, output: str) -> None:
    names = sorted(os.listdir(folder), key=lambda name: (name == LAST_FILE, name))
    if "://" not in output:
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(output, name))
        return
    filesystem, path = storage.locate(output)
    filesystem.makedirs(path, exist_ok=True)
    for name in names:
        filesystem.put_file(os.path.join(folder, name), f"{path}/{name}")
