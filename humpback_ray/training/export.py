"""From trained weights to a folder that transformers and vLLM load.

The folder holds what the training decides: weights, config.json and tokenizer. `wrapping` then
writes the files that say how the model is asked.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import stat
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
from humpback_ray.method import prompts
from humpback_ray.models.wrapping import GENERATION_FILE, without_sampling
from humpback_ray.training.lora import base_name
from humpback_ray.training.task import BaseModel

# transformers recognises a model folder by its config.json, so that file is put in place last.
LAST_FILE = "config.json"
PARTIAL = ".export-in-progress"
TOKENIZER_CONFIG = "tokenizer_config.json"
# The files of transformers' tokenizers; a class may name more (`vocab_files_names`).
TOKENIZER_FILES = (
    TOKENIZER_CONFIG, "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model*", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
# Turn markers, spaces, digits, line breaks, bytes outside of ASCII: where tokenizers differ.
PROBE_TEXTS = (
    prompts.render("Name a fruit.", "A tag."),
    " two  spaces\n\n\tnaïve 12345 日本 \U0001f40b <|im_start|> </s>",
)
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
        tokenizer = AutoTokenizer.from_pretrained(base.location, **base.load_options)
        sampling = generation_config(model.generation_config, tokenizer, model.config.vocab_size)
        is_converted = not dtypes.keys() <= {base_name(name) for name in model.state_dict()}
        if is_converted and getattr(model, "_weight_conversions", None):
            # The files have another form than the model: only transformers can convert it back. It
            # refuses to write sampling entries that contradict each other, as many bases have.
            model.generation_config = sampling
            model.save_pretrained(folder, state_dict=dict(stored))
        else:
            _write_weights(folder, stored)
        AutoConfig.from_pretrained(base.location, **base.load_options).save_pretrained(folder)
        copy_tokenizer(base, tokenizer, folder)
        check_same_ids(tokenizer, folder, base)
        # `save_pretrained` refuses entries that contradict each other, such as beams of one.
        sampling.to_json_file(os.path.join(folder, GENERATION_FILE))
        _give_usual_modes(folder)
        _put_in_place(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_tokenizer(base: BaseModel, tokenizer: Any, folder: str) -> None:
    """Copy the base's tokenizer files, and leave out the base's own chat template.

    `save_pretrained` would write them anew and lose what it does not know: without `legacy: true`
    of a LlamaTokenizer the first token of every prompt is another one.
    """
    names = {*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}
    if base.trust_remote_code:
        names.add("*.py")  # code of the tokenizer's class
    source = base.location
    if not os.path.isdir(source):
        source = snapshot_download(source, revision=base.revision, allow_patterns=sorted(names))
    for path in sorted({path for n in names for path in glob.glob(os.path.join(source, n))}):
        shutil.copyfile(path, os.path.join(folder, os.path.basename(path)))
    path = os.path.join(folder, TOKENIZER_CONFIG)
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as stream:
        content = json.load(stream)
    # The training has not seen the base's own template.
    if content.pop("chat_template", None) is not None:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2, ensure_ascii=False)


def check_same_ids(tokenizer: Any, folder: str, base: BaseModel) -> None:
    """Compare the ids of probe texts with those that the tokenizer in `folder` gives.

    Raises:
        AssertionError: they differ, so the model would be asked with other ids than it is trained
            on. It must not count as written.
    """
    copied = AutoTokenizer.from_pretrained(folder, trust_remote_code=base.trust_remote_code)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    for text in PROBE_TEXTS:
        for probe in (text, f"{bos}{text}{eos}"):
            trained, served = (
                t.encode(probe, add_special_tokens=False) for t in (tokenizer, copied)
            )
            assert trained == served, (
                f"the tokenizer of {base.location} gives other ids once it is copied to a model's "
                f"folder: {trained[:8]} and {served[:8]} for {probe[:40]!r}"
            )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        copied.bos_token_id,
        copied.eos_token_id,
    ), f"the tokenizer of {base.location} has another begin or end token once it is copied"


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


def generation_config(
    base: GenerationConfig, tokenizer: Any, vocabulary_size: int
) -> GenerationConfig:
    """The base's generation config without sampling, with the tokenizer's special tokens."""
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= vocabulary_size:
        pad = None  # many a tokenizer has a padding token that the model has no embedding for
    return GenerationConfig(
        **without_sampling(base.to_diff_dict())
        | {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": pad if pad is not None else tokenizer.eos_token_id,
        }
    )


def _give_usual_modes(folder: str) -> None:
    """Let all files have the mode that the umask gives; safetensors writes for the owner alone."""
    # transformers opens config.json in the usual way. Asking for the umask would change it for a
    # moment in all threads.
    mode = stat.S_IMODE(os.stat(os.path.join(folder, LAST_FILE)).st_mode)
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), mode)


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
