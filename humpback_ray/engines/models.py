"""Model folders: where a model is on this node, and what identifies it."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from filelock import FileLock
from fsspec.core import url_to_fs

BACK_OFF_SECONDS = (1.0, 4.0, 16.0)


def local_folder(model: str, *, weights: bool = True) -> str:
    """A model as transformers loads it: a local folder or hub id as it is, a URL copied here once.

    Args:
        model: local folder, hub id, or fsspec URL of a model folder.
        weights: whether the weights are wanted too, and not only configuration and tokenizer.
    """
    if "://" not in model:
        return model
    folder = _node_path("models", f"{model} {'full' if weights else 'light'}")
    # Many workers of a node ask at once; one copies and the others wait for it.
    with FileLock(f"{folder}.lock"):
        if not os.path.exists(os.path.join(folder, "config.json")):
            _copy_patiently(model, folder, weights)
    return folder


@contextmanager
def first_alone(work: str) -> Iterator[None]:
    """Let the first process of this node do `work` alone; when it is done, all others at once.

    For caches that the first fills and the others read: eight engines that compile one model at a
    time do it eight times over and write into each other's files.
    """
    mark = _node_path("done", work)
    with FileLock(f"{mark}.lock") as lock:
        if os.path.exists(mark):
            lock.release(force=True)
        yield
        with open(mark, "w"):
            pass


def _node_path(kind: str, name: str) -> str:
    """A place for something on this node, the same for all of a user's processes."""
    folder = os.path.join(tempfile.gettempdir(), f"humpback-{os.getuid()}", kind)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, sha256(name.encode()).hexdigest()[:16])


def _copy_patiently(model: str, folder: str, weights: bool) -> None:
    """A whole cluster that starts asks one store for the same files: back off when it gives up."""
    for seconds in BACK_OFF_SECONDS:
        try:
            return _copy(model, folder, weights)
        except OSError:
            time.sleep(seconds * (1 + random.random()))
    return _copy(model, folder, weights)


def _copy(model: str, folder: str, weights: bool) -> None:
    filesystem, path = url_to_fs(model)
    names = [name for name in filesystem.ls(path, detail=False) if filesystem.isfile(name)]
    if not weights:
        names = [name for name in names if not name.endswith(".safetensors")]
    os.makedirs(folder, exist_ok=True)
    # The configuration comes last: a folder that has one is whole.
    for name in sorted(names, key=lambda name: name.endswith("/config.json")):
        filesystem.get_file(name, os.path.join(folder, os.path.basename(name)))
