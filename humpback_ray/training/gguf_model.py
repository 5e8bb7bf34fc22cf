"""From a GGUF file to a model folder that transformers and vLLM load."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.sizing.gguf_header import SETTING, GgufHeader, read_header
from humpback_ray.training.export import PROBE_TEXTS, check_same_ids, generation_config
from humpback_ray.training.task import BaseModel

# Names that GGUF has for the way in which a byte-level vocabulary cuts its text into words. Those
# that transformers does not know it takes for GPT-2's.
# (llama.cpp, src/llama-vocab.cpp, `LLAMA_VOCAB_PRE_TYPE_*` and their `regex_exprs`.)
AS_GPT2 = ("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4")
# GPT-2's words, and each digit apart, which also keeps white space before a number together.
DIGITS_APART = (
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
)  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """A model folder out of a GGUF file."""

    num_tensors: int
    num_parameters: int
    types: tuple[str, ...]  # of the tensors in the file
    largest_logit_difference: float  # between the file's model and the folder's


def convert(file: str, output: str) -> Converted:
    """Write the model and the tokenizer of a GGUF file as an ordinary folder, in bf16.

    Args:
        file: local path or fsspec URL.
        output: local path or fsspec URL of a folder.

    Raises:
        UserError: transformers does not read the model whole, or its tokenizer.
        AssertionError: the folder's model gives other logits than the file's, or its tokenizer
            gives other ids.
    """
    header = read_header(file)
    # transformers imports DeepSpeed to save a model, which then says on stdout what it runs on.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # The progress bars of transformers' reader have no switch, so stderr goes nowhere meanwhile.
    with (
        redirect_stderr(io.StringIO()),
        _local_copy(file) as local,
        tempfile.TemporaryDirectory() as folder,
    ):
        model, tokenizer = _read(local, file)
        _check_whole(model, header, file)
        cut_words_as_the_file_says(tokenizer, header, file)
        tokenizer.chat_template = None  # no training has seen it
        num_parameters = model.num_parameters()
        model.generation_config = generation_config(
            GenerationConfig(), tokenizer, model.get_input_embeddings().num_embeddings
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        expected = _logits(model, tokenizer)
        del model
        check_same_ids(tokenizer, folder, BaseModel(folder))
        written = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        difference = max(
            (theirs - ours).abs().max().item()
            for theirs, ours in zip(expected, _logits(written, tokenizer), strict=True)
        )
        assert difference == 0, f"the folder's logits differ from those of {file} by {difference}"
        filesystem, path = storage.locate(output)
        filesystem.put(f"{folder}/", f"{path}/", recursive=True)
    return Converted(len(header.tensors), num_parameters, header.type_names, difference)


def _read(local: str, file: str) -> tuple[Any, Any]:
    """The model of a local GGUF file in bf16, and its tokenizer."""
    source = {"pretrained_model_name_or_path": os.path.dirname(local),
              "gguf_file": os.path.basename(local)}  # fmt: skip
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        # Only a model with plain weights can be saved.
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, NotImplementedError, KeyError) as error:
        raise UserError(
            f"{file} ({SETTING}) cannot be read as a causal language model: "
            f"{storage.one_line(error)[:300]}; give the model's safetensors as settings.base.model"
        ) from error
    return model, tokenizer


@contextmanager
def _local_copy(file: str) -> Iterator[str]:
    if "://" not in file:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        filesystem, path = storage.locate(file)
        local = os.path.join(folder, "model.gguf")
        filesystem.get_file(path, local)
        yield local


def _check_whole(model: Any, header: GgufHeader, file: str) -> None:
    """Refuse a file of which transformers leaves tensors out, or lacks some.

    It says neither. It invents weights that the file does not have, and ignores what it cannot
    place, such as the rotary factors of LLaMA 3.1.
    """
    in_file = sum(tensor.num_values for tensor in header.tensors)
    in_model = sum(parameter.numel() for parameter in model.parameters())
    if in_file != in_model:
        raise UserError(
            f"{file} ({SETTING}) has {in_file:,} weights, and the {header.architecture} model that "
            f"transformers makes of it has {in_model:,}: it would not be the same model; give its "
            "safetensors as settings.base.model"
        )


def cut_words_as_the_file_says(tokenizer: Any, header: GgufHeader, file: str) -> None:
    """Complete what transformers knows of the ways to cut a text into words before its tokens."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if header.metadata.get("tokenizer.ggml.model") != "gpt2":
        return
    name = header.metadata.get("tokenizer.ggml.pre", "default")
    if name in GGUF_PRE_TOKENIZER_SPLITS or name in AS_GPT2:
        return
    if name not in DIGITS_APART:
        raise UserError(
            f"{file} ({SETTING}) cuts its words as {name!r}, which transformers does not know, so "
            "its token ids would be others: give the model's safetensors and tokenizer as "
            "settings.base.model"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


@torch.no_grad()
def _logits(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """The logits of the probe texts, in fp32: many CPUs have no instructions for bf16."""
    model = model.float().eval()
    ids = (tokenizer(text, return_tensors="pt").input_ids for text in PROBE_TEXTS)
    return [model(text_ids).logits for text_ids in ids]
