"""The files of a base model, and what is wrong with them before anything is loaded.

Reads JSON and the headers of the weights, which give names, shapes, dtypes and the length of the
whole file. A pointer or a file that was cut is found without loading it.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import fsspec

from humpback_ray import storage
from humpback_ray.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # the names that are loaded
ADAPTER_CONFIG = "adapter_config.json"
JSON_FILES = ("config.json", "generation_config.json", INDEX, "tokenizer.json", "added_tokens.json",
              "tokenizer_config.json", "special_tokens_map.json", "vocab.json")  # fmt: skip
TOKENIZER_PREFIXES = ("tokenizer", "vocab", "spiece", "tekken")
# Git LFS leaves a text of this kind where it has not fetched a file:
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024
LARGEST_HEADER = 100_000_000  # bytes; safetensors refuses a longer one
# Names of dtypes in a safetensors header, https://huggingface.co/docs/safetensors.
WIDE_DTYPES = ("F64", "F32", "F16")  # hold more of a value than BF16 does
FLOAT_DTYPES = (*WIDE_DTYPES, "BF16")
EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings)\.weight$"
)

RANDOM_VALUES = "transformers would fill them with random values; copy the weights again"


class ProblemKind(StrEnum):
    """The way in which a base model cannot be used."""

    UNREADABLE = "unreadable"  # a file that is cut or no JSON, or transformers does not load it
    POINTER = "pointer"  # a Git LFS pointer in place of a file
    CUT = "cut"  # weights shorter or longer than their header says
    NO_WEIGHTS = "no weights"  # no safetensors, or not all of them
    ADAPTER = "adapter"  # adapters without their base, or beside it
    QUANTIZED = "quantized"
    NO_LANGUAGE_MODEL = "no language model"
    REMOTE_CODE = "remote code"  # it brings code that may not run
    NO_TOKENIZER = "no tokenizer"
    VOCABULARY = "vocabulary"  # tokenizer, config.json and embedding do not agree
    NO_END_TOKEN = "no end token"
    POSITIONS = "positions"  # a length above the model's positions
    DROPOUT = "dropout"
    LORA = "lora"  # modules that the model does not have
    GRADES = "grades"  # more than one token each


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason against a base model; `str` gives one line for a person."""

    kind: ProblemKind
    found: str  # the value and the rule
    way_out: str

    def __str__(self) -> str:
        return f"{self.found}: {self.way_out}"


class Unusable(UserError):
    """A base model that cannot be used, with the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True)
class TensorHeader:
    """The entry of one tensor in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder, or of a hub id's folder in the cache."""

    name: str  # of the model, for messages
    folder: str  # path or URL
    is_whole: bool = True  # False: a hub id; a run fetches what its cache here does not have

    @cached_property
    def names(self) -> set[str]:
        """Names of all files in the folder."""
        return storage.names(self.folder)

    @property
    def has_config(self) -> bool:
        return "config.json" in self.names

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json; empty without one."""
        return self.json("config.json") or {}

    @property
    def has_all_weights(self) -> bool:
        return bool(self.weight_files) and self.names.issuperset(self.weight_files)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        filesystem, path = storage.locate(storage.join(self.folder, name))
        return int(filesystem.size(path))

    def head(self, name: str, num_bytes: int) -> bytes:
        """The first bytes of a file."""
        with fsspec.open(storage.join(self.folder, name), "rb") as file:
            return file.read(num_bytes)

    def json(self, name: str) -> Any:
        """The content of a JSON file; None if there is none.

        Raises:
            Unusable: it is no JSON.
        """
        if name not in self.names:
            return None
        try:
            with storage.open_text(storage.join(self.folder, name)) as file:
                return storage.parse_json(file.read())
        except ValueError as error:
            raise self.unusable(
                ProblemKind.UNREADABLE,
                f"has a {name} that is no JSON ({storage.one_line(error)})",
                "it is cut or damaged; copy it again",
            ) from error

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the safetensors files that transformers and vLLM load; empty without any."""
        if WEIGHTS in self.names:
            return (WEIGHTS,)
        index = self.json(INDEX)
        return tuple(sorted(set(index["weight_map"].values()))) if index else ()

    @cached_property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """The headers of all tensors by name, of the files that exist."""
        found: dict[str, TensorHeader] = {}
        for name in self.weight_files:
            if name in self.names:
                found |= self._header(name)
        return found

    def _header(self, name: str) -> Mapping[str, TensorHeader]:
        """The header of a safetensors file.

        Raises:
            Unusable: it is a pointer, no safetensors file, or has not the length it states.
        """
        size, head = self.size(name), self.head(name, 8)
        broken = f"it is cut or damaged ({size:,} bytes); copy it again"
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else LARGEST_HEADER + 1
        if length > LARGEST_HEADER or 8 + length > size:
            raise self.unusable(
                ProblemKind.CUT, f"has a {name} without a whole safetensors header", broken
            )
        try:
            header = json.loads(self.head(name, 8 + length)[8:])
            tensors = {key: value for key, value in header.items() if key != "__metadata__"}
            end = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
            found = {key: TensorHeader(t["dtype"], tuple(t["shape"])) for key, t in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.unusable(
                ProblemKind.CUT, f"has a {name} whose safetensors header cannot be read", broken
            ) from error
        if size != end:
            raise self.unusable(
                ProblemKind.CUT,
                f"has a {name} of {size:,} bytes where its header wants {end:,}",
                "it is cut or damaged; copy it again",
            )
        return found

    def unusable(self, kind: ProblemKind, rule: str, way_out: str) -> Unusable:
        """The error for a problem of these files; `rule` continues "the base model ..."."""
        return Unusable(self.problem(kind, rule, way_out))

    def problem(self, kind: ProblemKind, rule: str, way_out: str) -> Problem:
        """A problem of these files."""
        return Problem(kind, f"the base model {self.name!r} {rule}", way_out)


def model_files(model: str, revision: str | None = None) -> ModelFiles:
    """The files of a folder, URL or hub id, as far as they are on this machine."""
    if storage.is_url(model) or os.path.isdir(os.path.expanduser(model)):
        return ModelFiles(model, storage.absolute(model))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # a path that does not exist
        config = None
    folder = os.path.dirname(config) if isinstance(config, str) else model
    return ModelFiles(model, folder, is_whole=False)


def file_problems(files: ModelFiles) -> list[Problem]:
    """The first problem that the files show without transformers, if there is one."""
    try:
        first = next(_file_problems(files), None)
    except Unusable as error:
        first = error.problem
    return [first] if first else []


def _file_problems(files: ModelFiles) -> Iterator[Problem]:
    yield from _pointers(files)
    yield from _adapters(files)
    if files.is_whole and not files.has_config:
        yield files.problem(
            ProblemKind.UNREADABLE,
            "has no config.json",
            "it must be a folder (path or URL) with config.json, tokenizer and safetensors, or a "
            "Hugging Face hub id",
        )
    for name in sorted(files.names.intersection(JSON_FILES)):
        files.json(name)
    yield from _quantization(files)
    yield from _absent_weights(files)
    yield from _absent_tensors(files)
    # Without these files transformers may build an empty tokenizer from config.json alone.
    if files.is_whole and not any(name.startswith(TOKENIZER_PREFIXES) for name in files.names):
        yield files.problem(
            ProblemKind.NO_TOKENIZER,
            "has no tokenizer",
            "put its tokenizer files (tokenizer.json, tokenizer_config.json) beside config.json",
        )


def _pointers(files: ModelFiles) -> Iterator[Problem]:
    suffixes = (".json", ".safetensors", ".model", ".txt", ".py", ".tiktoken")
    for name in sorted(name for name in files.names if name.endswith(suffixes)):
        if files.size(name) <= POINTER_BYTES and files.head(name, len(POINTER)) == POINTER:
            yield files.problem(
                ProblemKind.POINTER,
                f"has a Git LFS pointer in place of {name}",
                "run `git lfs pull` in its repository, or download the file itself",
            )


def _adapters(files: ModelFiles) -> Iterator[Problem]:
    if ADAPTER_CONFIG not in files.names:
        return
    adapted = (files.json(ADAPTER_CONFIG) or {}).get("base_model_name_or_path") or "its base"
    # transformers would load the adapter's base, and not the weights beside the adapter.
    state = "has adapters alone" if not files.has_config else "has adapters beside its weights"
    yield files.problem(
        ProblemKind.ADAPTER,
        f"{state} ({ADAPTER_CONFIG})",
        f"merge them into {adapted} with peft's merge_and_unload and save_pretrained, and give "
        "that folder",
    )


def _quantization(files: ModelFiles) -> Iterator[Problem]:
    way_out = "give the model in 16 or 32 bits that it was made from, or dequantize it"
    quantization = files.config.get("quantization_config") or files.json("quantize_config.json")
    if quantization:
        method = quantization.get("quant_method") or "bits"
        yield files.problem(
            ProblemKind.QUANTIZED,
            f"is quantized ({method}), and such weights cannot be trained",
            way_out,
        )
    for name, tensor in sorted(files.tensors.items()):
        if name.endswith("weight") and tensor.dtype not in FLOAT_DTYPES:
            yield files.problem(
                ProblemKind.QUANTIZED,
                f"has {tensor.dtype} in {name}, and weights are trained from "
                f"{', '.join(FLOAT_DTYPES)}",
                way_out,
            )
            return


def _absent_weights(files: ModelFiles) -> Iterator[Problem]:
    absent = [name for name in files.weight_files if name not in files.names]
    if not files.is_whole or (files.weight_files and not absent):
        return
    if absent:
        yield files.problem(
            ProblemKind.NO_WEIGHTS,
            f"has no {absent[0]}, which {INDEX} names ({len(absent)} of "
            f"{len(files.weight_files)} files are absent)",
            "copy or download the rest",
        )
        return
    way_out = "convert it with transformers' save_pretrained"
    others = sorted(n for n in files.names if n.endswith((".bin", ".pt", ".pth", ".gguf")))
    if others:
        way_out = f"convert {others[0]} with transformers' save_pretrained"
    yield files.problem(
        ProblemKind.NO_WEIGHTS,
        f"has no *.safetensors file under a name that transformers loads ({WEIGHTS}, or those in "
        f"{INDEX}), the only format that humpback_ray reads",
        way_out,
    )


def _absent_tensors(files: ModelFiles) -> Iterator[Problem]:
    index = files.json(INDEX) if WEIGHTS not in files.names else None
    for name, file in sorted((index or {}).get("weight_map", {}).items()):
        if file in files.names and name not in files.tensors:
            yield files.problem(
                ProblemKind.NO_WEIGHTS,
                f"has no {name} in {file}, where {INDEX} places it",
                RANDOM_VALUES,
            )
            return


def num_embeddings(files: ModelFiles) -> int | None:
    """Rows of the input embedding; None where its name is not known."""
    return next(
        (t.shape[0] for n, t in files.tensors.items() if EMBEDDING.search(n) and len(t.shape) == 2),
        None,
    )
