"""Model folders: where a model is on this node, and what identifies it."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256

from filelock import FileLock
from fsspec.core import url_to_fs


def local_folder(model: str, *, weights: bool = True) -> str:
    """A model as transformers loads it: a local folder or hub id as it is, a URL copied here once.

    Args:
        model: local folder, hub id, or fsspec URL of a model folder.
        weights: whether the weights are wanted too, and not only configuration and tokenizer.
    """
    if "://" not in model:
        return model
    kind = "full" if weights else "light"
    folder = os.path.join(
        tempfile.gettempdir(),
        "humpback-models",
        f"{sha256(model.encode()).hexdigest()[:16]}-{kind}",
    )
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    # Many workers of a node ask at once; one copies and the others wait for it.
    with FileLock(f"{folder}.lock"):
        if not os.path.exists(os.path.join(folder, "config.json")):
            _copy(model, folder, weights)
    return folder


def _copy(model: str, folder: str, weights: bool) -> None:
    filesystem, path = url_to_fs(model)
    names = [name for name in filesystem.ls(path, detail=False) if filesystem.isfile(name)]
    if not weights:
        names = [name for name in names if not name.endswith(".safetensors")]
    os.makedirs(folder, exist_ok=True)
    # The configuration comes last: a folder that has one is whole.
    for name in sorted(names, key=lambda name: name.endswith("/config.json")):
        filesystem.get_file(name, os.path.join(folder, os.path.basename(name)))
