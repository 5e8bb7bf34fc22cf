"""Several places of one corpus: each file once, and no two files of one name.

A document's id and the corpus's identity hash the names of files below their places. Where files of
two places have the same name, all names begin with the last folders of their places, as many as
tell them apart: `wiki/part-0.jsonl` and `books/part-0.jsonl`. So neither the order of the places
nor the folder above them changes a row, and one path and the same files as a list are one corpus.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from humpback_ray.config.dataset_address import is_dataset
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.installed_packages import PACKAGE_PREFIX


def real_path(path: str) -> str:
    """The path of a local file without links; every other path as it is."""
    is_local = "://" not in path and not path.startswith(PACKAGE_PREFIX)
    return os.path.realpath(path) if is_local else path


def distinct(files: Sequence[CorpusFile]) -> list[CorpusFile]:
    """Files of several places, sorted by name, each once and with a name that no other has.

    Of a file that several places reach, the smallest name stays, and no link where the file stands.
    """
    once: dict[str, CorpusFile] = {}
    for file in sorted(files, key=_rank):
        once.setdefault(real_path(file.path), file)
    # A dataset's shards have names without an ending, so no other file has the name of one. Their
    # number may be unknown where the identity is made, so they do not change other files' names.
    shards = [file for file in once.values() if is_dataset(file.path)]
    others = [file for file in once.values() if not is_dataset(file.path)]
    return sorted(_told_apart(shards) + _told_apart(others), key=lambda file: file.name)


def _rank(file: CorpusFile) -> tuple[bool, bool, str, str]:
    is_behind_link = real_path(file.path) != file.path
    return os.path.islink(file.path), is_behind_link, file.name, file.path


def _told_apart(files: list[CorpusFile]) -> list[CorpusFile]:
    folders = [_folders(file) for file in files]
    num_folders = 0
    names = [file.name for file in files]
    while len(set(names)) < len(names) and num_folders < max(map(len, folders)):
        num_folders += 1
        names = [
            "/".join([*above[-num_folders:], file.name])
            for above, file in zip(folders, files, strict=True)
        ]
    assert len(set(names)) == len(names), "two files of one path"
    return [replace(file, name=name) for file, name in zip(files, names, strict=True)]


def _folders(file: CorpusFile) -> list[str]:
    """The folders above a file's name; of a shard, the parts of its dataset's address."""
    place = file.path.partition("#")[0] if is_dataset(file.path) else file.path
    return [part for part in place.removesuffix(file.name).split("/") if part]
