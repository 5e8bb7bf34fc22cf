"""The READMEs of installed packages as a corpus: text that is there on every machine."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import replace

from humpback_ray.corpus.documents import CorpusFile, Document, Format, document_id
from humpback_ray.errors import UserError

INSTALLED_PACKAGES = "installed-packages"
PACKAGE_PREFIX = f"{INSTALLED_PACKAGES}:"
_THIS_PACKAGE = "humpback-ray"
_FORMATS: dict[str, Format] = {"text/markdown": "markdown", "text/x-rst": "restructuredtext"}


def package_names() -> list[str]:
    """Normalised names of the distributions of this interpreter, sorted, without this project."""
    names = {
        re.sub(r"[-_.]+", "-", distribution.name).lower()  # as PyPI normalises them
        for distribution in importlib.metadata.distributions()
        if distribution.name
    }
    return sorted(names - {_THIS_PACKAGE})


def file_of_package(name: str) -> CorpusFile:
    """The README of an installed distribution as a file of a corpus."""
    distribution = importlib.metadata.distribution(name)
    file = CorpusFile(f"{PACKAGE_PREFIX}{name}", f"{name}-{distribution.version}", size=0)
    return replace(file, size=len(read_package(file).content))


def read_package(file: CorpusFile) -> Document:
    """The long description (README) of a distribution.

    One that states no content type is reStructuredText, as PyPI reads it.

    Raises:
        UserError: the distribution is not installed here.
    """
    name = file.path.removeprefix(PACKAGE_PREFIX)
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{name} is not installed on this machine: {error}; "
            f"settings.corpus.path={INSTALLED_PACKAGES} reads what each machine has"
        ) from error
    content_types = metadata.get_all("Description-Content-Type") or ["text/x-rst"]
    kind = _FORMATS.get(content_types[0].partition(";")[0].strip().lower(), "text")
    # The body of METADATA, or its Description field: importlib.metadata joins the two.
    descriptions = metadata.get_all("Description") or [""]
    return Document(document_id(file, 0), file.name, descriptions[-1], kind)
