"""A run's inputs from outside, identified by their content."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from humpback_ray import storage
from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Source, fingerprint
from humpback_ray.sizing.gguf_header import (
    SETTING,
    GgufHeader,
    check_quantization,
    gguf_location,
    read_header,
)

MODEL_SUFFIXES = (".json", ".safetensors", ".model", ".txt")


def file_source(path: str | tuple[str, ...], what: str, key: str) -> Source:
    """A single file by its content, whose name and location do not matter, or a dataset.

    Args:
        path: local path, URL or address of a dataset; or several, whose order matters.
        what: description of the file, for people.
        key: the setting that names it.
    """
    if not isinstance(path, str):
        source = _source(", ".join(path), lambda: _identity_of_files(path, what, key))
        return replace(source, several=path)
    if is_dataset(path):
        return dataset_source(path, key)

    def identity() -> str:
        return content_identity([CorpusFile(path, what, storage.size(path, what, key))], key)

    return _source(path, identity)


def _identity_of_files(paths: tuple[str, ...], what: str, key: str) -> str:
    identities = []
    for path in paths:
        source = file_source(path, what, key)
        if source.identity is None:
            raise UserError(source.problem)
        identities.append(source.identity)
    return f"in turn:{fingerprint(identities)}"


def corpus_source(path: str | tuple[str, ...], key: str = "settings.corpus.path") -> Source:
    """A corpus by the names and contents of its files.

    Args:
        path: as `list_files` takes it, one or several.
        key: the setting that names it.
    """
    if not isinstance(path, str):
        source = _source(", ".join(path), lambda: _identity_of_several(path, key))
        return replace(source, several=path)
    if is_dataset(path):
        return dataset_source(path, key)
    return _source(path, lambda: content_identity(list_files(path, setting=key), key))


def _identity_of_several(paths: tuple[str, ...], key: str) -> str:
    """The identity of some places in any order; of files alone, the same as of one place."""
    datasets = [path for path in paths if is_dataset(path)]
    others = [path for path in paths if not is_dataset(path)]
    identities = []
    for path in datasets:
        source = dataset_source(path, key)
        if source.identity is None:
            raise UserError(source.problem)
        folder = dataset_address(path).folder
        # Folders with shards of the same names are told apart by their own names.
        named = f" in {storage.name(folder)}" if folder and len(datasets) > 1 else ""
        identities.append(source.identity + named)
    if others:
        identities.append(content_identity(list_files(others, setting=key), key))
    if len(identities) == 1:
        return identities[0]
    return f"several:{fingerprint(sorted(identities))}"


def dataset_source(location: str, key: str) -> Source:
    """A dataset: one of the hub by its name and revision, a folder by its content.

    Nothing is read from the hub here; a stage's `check` does that before it runs.

    Args:
        location: an address that the recipe has validated.
        key: the setting that names it.
    """
    address = dataset_address(location)
    part = f"config={address.config} split={address.split or 'train'} column={address.column}"
    if address.folder is None:
        return Source(location, f"dataset:{address.name}@{address.revision or 'main'} {part}")

    def identity() -> str:
        files = list_files(str(address.folder), ("",), key)
        return f"dataset:{content_identity(files, key)} {part}"

    return _source(location, identity)


def model_source(
    model: str, revision: str | None, key: str = "settings.base.model", what: str = "base model"
) -> Source:
    """A model: a folder or URL by its content, a hub id by its name and revision.

    Args:
        key: the setting that names it.
        what: description of the model, for people.
    """
    if not storage.is_url(model) and not os.path.exists(os.path.expanduser(model)):
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            problem = (
                f"no model folder {model}: set {key} to a folder with config.json "
                "and safetensors weights, a URL of one, or a Hugging Face hub id"
            )
            return Source(model, None, problem=problem)
        return Source(model, f"hub:{model}@{revision or 'main'}", revision)
    location = storage.absolute(model)

    def identity() -> str:
        if not storage.is_url(location):  # the model at a URL gets a local copy with a plain name
            storage.refuse_misread(location, what, key)
        return content_identity(list_files(location, MODEL_SUFFIXES, key), key)

    return _source(location, identity)


def gguf_source(file: str) -> Source:
    """A base model in a GGUF file by its content; a file that no model can be made of is none."""
    try:
        location = gguf_location(file)
    except UserError as error:
        return Source(file, None, problem=str(error))

    def identity() -> str:
        found = file_source(location, "GGUF file", SETTING)
        if found.identity is None:
            raise UserError(found.problem)
        header = read_header(location)
        _check_model(header, location)
        check_quantization(header, location)
        return found.identity

    return _source(location, identity)


def _check_model(header: GgufHeader, location: str) -> None:
    """Refuse what is no whole model with a tokenizer, or one that transformers does not have."""
    # Not at the top, because no other command waits for transformers.
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    readable = sorted({*GGUF_CONFIG_MAPPING, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"})
    what = f"{location} ({SETTING})"
    kind, parts = header.metadata.get("general.type", "model"), header.metadata.get("split.count")
    if kind != "model":
        raise UserError(f"{what} is of type {kind} and no model: give the model's own file")
    if parts and parts > 1:
        raise UserError(
            f"{what} is one of {parts} parts: join them with llama.cpp's `llama-gguf-split --merge`"
        )
    if _plainly(header.architecture) not in map(_plainly, readable):
        raise UserError(
            f"{what} has the architecture {header.architecture!r}, which transformers does not "
            f"read from GGUF: it reads {', '.join(readable)}; or give the model's safetensors as "
            "settings.base.model"
        )
    for key, name in (("tokens", "no tokenizer"), ("eos_token_id", "no end token")):
        if f"tokenizer.ggml.{key}" not in header.metadata:
            raise UserError(f"{what} has {name} in it: convert the model with its tokenizer")


def _plainly(architecture: str) -> str:
    """A name as both sides write it: GGUF's gpt-oss and qwen2moe are gpt_oss and qwen2_moe."""
    return architecture.replace("-", "").replace("_", "")


def _source(location: str, identity: Callable[[], str]) -> Source:
    try:
        return Source(location, identity())
    except UserError as error:
        return Source(location, None, problem=str(error))
