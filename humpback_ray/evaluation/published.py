"""Published outputs that play against a run's models: the settings `reference` and `compared`."""

from __future__ import annotations

from dataclasses import replace

from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.evaluation.model_outputs import ModelOutputs, read_outputs
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Source

REFERENCE_KEY = "settings.evaluation.reference"
COMPARED_KEY = "settings.evaluation.compared"


def reference_source(path: str | None) -> Source | None:
    """The reference's outputs by their content; with a problem if they have another format."""
    if path is None:
        return None
    source = file_source(path, "file of model outputs", REFERENCE_KEY)
    if source.problem:
        return source
    try:
        read_outputs(path, REFERENCE_KEY)
    except UserError as error:
        return replace(source, identity=None, problem=str(error))
    return source


def compared_source(path: str | None) -> Source | None:
    """All compared outputs by their contents; with the first problem of any of them."""
    if path is None:
        return None
    try:
        files = list_files(path, (".json",), COMPARED_KEY)
        for file in files:
            read_outputs(file.path, COMPARED_KEY)
        return Source(path, content_identity(files, COMPARED_KEY))
    except UserError as error:
        return Source(path, None, problem=str(error))


def num_outputs(reference: str | None, compared: str | None) -> int:
    """The number of models with published outputs.

    Args:
        reference: a file.
        compared: a file, a folder or a pattern.
    """
    files = list_files(compared, (".json",), COMPARED_KEY) if compared else []
    return (reference is not None) + len(files)


def read_published(reference: str | None, compared: str | None) -> list[ModelOutputs]:
    """The outputs of the reference, then of the others.

    Args:
        reference: a file.
        compared: a file, a folder or a pattern.
    """
    outputs = [read_outputs(reference, REFERENCE_KEY)] if reference else []
    files = list_files(compared, (".json",), COMPARED_KEY) if compared else []
    return outputs + [read_outputs(file.path, COMPARED_KEY) for file in files]
