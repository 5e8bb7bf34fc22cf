"""From trained weights to a folder that transformers and vLLM load."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from humpback_ray.method import prompts
from humpback_ray.training.lora import base_name

# A folder is taken for a model by its config.json, so that file is put in place last.
LAST_FILE = "config.json"
PARTIAL = ".export-in-progress"
SHARD_BYTES = 5 * 10**9  # of one file of weights; save_pretrained's default was this for years
# Names of dtypes in a safetensors header; https://huggingface.co/docs/safetensors.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def export_model(
    *,
    model: Any,
    weights: Iterable[tuple[str, torch.Tensor]],
    is_writer: bool = True,
    base_model: str,
    revision: str | None,
    trust_remote_code: bool,
    output: str,
    chat_tags: tuple[str, ...],
    generation: dict[str, Any] | None,
) -> None:
    """Write the model in the form of its base: same tensor names, shapes, dtypes and config.

    No more than one file of weights is held in memory, of SHARD_BYTES at most.

    Args:
        model: the transformers model the weights belong to; its parameters may be partitioned, and
            it may have adapters in it, which `weights` must not.
        weights: name and value of every tensor, on any device; a value is read before the next
            one is asked for.
        is_writer: whether this process writes; the others only go through `weights`.
        base_model: local folder or hub id that `model` was loaded from.
        revision: of a hub id.
        trust_remote_code: as for loading.
        output: local path or fsspec URL of a folder; other files in it stay. A local file appears
            under its name only when complete, and config.json after all others.
        chat_tags: default tags of the exported chat template.
        generation: entries for generation_config.json, such as temperature and top_p.
    """
    if not is_writer:
        deque(weights, maxlen=0)
        return
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    folder = _staging_folder(output)
    try:
        dtypes = base_dtypes(base_model, revision)
        # Tied weights have a second name, which the base's files have or have not.
        second_names = set(model.all_tied_weights_keys) - dtypes.keys()
        own = (
            (name, _as_in_base(tensor, dtypes.get(name, tensor.dtype)))
            for name, tensor in weights
            if name not in second_names
        )
        is_converted = not dtypes.keys() <= {base_name(name) for name in model.state_dict()}
        if is_converted and getattr(model, "_weight_conversions", None):
            # Stored in another form than the model has: only transformers knows the way back.
            model.save_pretrained(folder, state_dict=dict(own))
        else:
            _write_weights(folder, own)
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


def _as_in_base(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # `copy`: the value behind a gathered tensor is gone when the next one comes.
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _write_weights(folder: str, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write `model.safetensors`, or several files and their index as transformers has them."""
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
