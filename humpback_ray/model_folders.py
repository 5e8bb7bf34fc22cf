"""Models on this node: local copies of model folders at URLs, and work that a node does once."""

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
    """A model as transformers loads it: a local folder or hub id unchanged, a URL's local copy.

    A node copies a URL once, and again after the files at the URL change.

    Args:
        model: local folder, hub id, or fsspec URL of a model folder.
        weights: copy the weights too, and not only configuration and tokenizer.
    """
    if "://" not in model:
        return model
    place = _node_path("models", f"{model} {'full' if weights else 'light'}")
    # Many workers of a node call this at once; one copies while the others wait.
    with FileLock(f"{place}.lock"):
        for seconds in BACK_OFF_SECONDS:
            try:
                return _copy(model, place, weights)
            except storage.errors():
                # A starting cluster overloads the store: all nodes read the same files at once.
                time.sleep(seconds * (1 + random.random()))
        return _copy(model, place, weights)


@contextmanager
def first_alone(work: str) -> Iterator[None]:
    """Let the first process of this node do `work` alone, and all others together after it.

    The first process fills a cache that the others read. Without it, eight engines that compile one
    model at the same time compile it eight times and write into each other's files.
    """
    mark = _node_path("done", work)
    with FileLock(f"{mark}.lock") as lock:
        if os.path.exists(mark):
            lock.release(force=True)
        yield
        with open(mark, "w"):
            pass


def _node_path(kind: str, name: str) -> str:
    """A path on this node, the same for all of a user's processes."""
    folder = os.path.join(tempfile.gettempdir(), f"humpback-{os.getuid()}", kind)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, sha256(name.encode()).hexdigest()[:16])


def _copy(model: str, place: str, weights: bool) -> str:
    """The folder below `place` with the URL's present files; deletes older copies."""
    filesystem, path = storage.locate(model)
    entries = sorted(filesystem.ls(path, detail=True), key=lambda entry: entry["name"])
    files = [entry for entry in entries if entry["type"] == "file"]
    # The entries have sizes, and times or content hashes, so a new run at the same URL has another
    # folder name.
    folder = os.path.join(place, sha256(repr(files).encode()).hexdigest()[:16])
    if os.path.exists(folder):
        return folder
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(partial := f"{folder}.partial")
    for name in (entry["name"] for entry in files):
        if weights or not name.endswith(".safetensors"):
            filesystem.get_file(name, os.path.join(partial, os.path.basename(name)))
    os.rename(partial, folder)
    return folder
