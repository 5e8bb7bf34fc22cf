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
from pathlib import Path

from filelock import FileLock

from humpback_ray import storage

BACK_OFF_SECONDS = (1.0, 4.0, 16.0)


def local_folder(model: str, *, weights: bool = True) -> str:
    """A model as transformers loads it: a local folder or hub id unchanged, a URL's local copy.

    A node copies a URL once, and after a change at the URL the files that have changed.

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
    return os.path.join(folder, _key(name))


def _copy(model: str, place: str, weights: bool) -> str:
    """The folder below `place` with the URL's present files; deletes files of older listings."""
    filesystem, path = storage.locate(model)
    # An entry has the size, and the time or content hash, so a changed file has another key.
    files = {
        _key(entry): entry["name"]
        for entry in filesystem.ls(path, detail=True)
        if entry["type"] == "file" and (weights or not entry["name"].endswith(".safetensors"))
    }
    folder = os.path.join(place, _key(sorted(files)))
    if os.path.exists(folder):
        return folder
    os.makedirs(kept := os.path.join(place, "files"), exist_ok=True)
    # First, because a disk may not have room for the old weights and the new ones.
    for old_folder in set(Path(place).iterdir()) - {Path(kept)}:
        shutil.rmtree(old_folder)
    for old_file in Path(kept).iterdir():
        if old_file.name not in files:
            old_file.unlink()
    os.makedirs(partial := f"{folder}.partial")
    for key, name in files.items():
        if not os.path.exists(file := os.path.join(kept, key)):
            filesystem.get_file(name, f"{file}.partial")
            os.rename(f"{file}.partial", file)
        os.link(file, os.path.join(partial, os.path.basename(name)))
    os.rename(partial, folder)
    return folder


def _key(content: object) -> str:
    return sha256(repr(content).encode()).hexdigest()[:16]
