"""Model folders: where a model is on this node, and what identifies it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from filelock import FileLock

from humpback_ray import storage

BACK_OFF_SECONDS = (1.0, 4.0, 16.0)


def local_folder(model: str, *, weights: bool = True) -> str:
    """A model as transformers loads it: a local folder or hub id as it is, a URL copied here once.

    What has been copied is copied again when it has changed at the URL.

    Args:
        model: local folder, hub id, or fsspec URL of a model folder.
        weights: whether the weights are wanted too, and not only configuration and tokenizer.
    """
    if "://" not in model:
        return model
    place = _node_path("models", f"{model} {'full' if weights else 'light'}")
    # Many workers of a node ask at once; one copies and the others wait for it.
    with FileLock(f"{place}.lock"):
        for seconds in BACK_OFF_SECONDS:
            try:
                return _copy(model, place, weights)
            except storage.errors():
                # A whole cluster that starts asks one store for the same files.
                time.sleep(seconds * (1 + random.random()))
        return _copy(model, place, weights)


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


def _copy(model: str, place: str, weights: bool) -> str:
    """The folder below `place` with what is at the URL now; older copies go."""
    filesystem, path = storage.locate(model)
    found = sorted(filesystem.ls(path, detail=True), key=lambda entry: entry["name"])
    found = [entry for entry in found if entry["type"] == "file"]
    # With sizes, and times or hashes of the contents: a run may have been made anew at its place.
    folder = os.path.join(place, sha256(repr(found).encode()).hexdigest()[:16])
    if os.path.exists(folder):
        return folder
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(partial := f"{folder}.partial")
    for name in (entry["name"] for entry in found):
        if weights or not name.endswith(".safetensors"):
            filesystem.get_file(name, os.path.join(partial, os.path.basename(name)))
    os.rename(partial, folder)
    return folder
