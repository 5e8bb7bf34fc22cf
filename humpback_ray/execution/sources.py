"""A run's inputs from outside, identified by their content."""

from __future__ import annotations

import os
from collections.abc import Callable

from humpback_ray import storage
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Source

MODEL_SUFFIXES = (".json", ".safetensors", ".model", ".txt")


def file_source(path: str, what: str, key: str) -> Source:
    """A single file by its content; its name and location do not matter.

    Args:
        path: local path or URL.
        what: description of the file, for people.
        key: the setting that names it.
    """

    def identity() -> str:
        return content_identity([CorpusFile(path, what, storage.size(path, what, key))], key)

    return _source(path, identity)


def corpus_source(path: str) -> Source:
    """A corpus by the names and contents of its files."""
    return _source(path, lambda: content_identity(list_files(path)))


def model_source(model: str, revision: str | None) -> Source:
    """A base model: a folder or URL by its content, a hub id by its name and revision."""
    if not storage.is_url(model) and not os.path.exists(os.path.expanduser(model)):
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            problem = (
                f"no model folder {model}: set settings.base.model to a folder with config.json "
                "and safetensors weights, a URL of one, or a Hugging Face hub id"
            )
            return Source(model, None, problem=problem)
        return Source(model, f"hub:{model}@{revision or 'main'}", revision)
    location = storage.absolute(model)
    key = "settings.base.model"

    def identity() -> str:
        if not storage.is_url(location):  # the model at a URL gets a local copy with a plain name
            storage.refuse_misread(location, "base model", key)
        return content_identity(list_files(location, MODEL_SUFFIXES, key), key)

    return _source(location, identity)


def _source(location: str, identity: Callable[[], str]) -> Source:
    try:
        return Source(location, identity())
    except UserError as error:
        return Source(location, None, problem=str(error))
