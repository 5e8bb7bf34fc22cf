"""The package of a submitted run: the recipe and its small files, and no credentials."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.config.fields import Location, list_of, locations
from humpback_ray.config.recipe import SHIPPED, Recipe, recipe_names
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.files import CORPUS_SUFFIXES, list_files
from humpback_ray.corpus.installed_packages import INSTALLED_PACKAGES
from humpback_ray.errors import UserError

# Keys of a job's metadata.
RUN, SETTINGS = "humpback_run", "humpback_settings"

PACKAGE = Path(__file__).parents[1]
JOBS = PACKAGE.parent / "jobs"
TRAVELLING = "submitted"  # the folder of the working directory with the user's own files
MAX_TRAVELLING_BYTES = 50 * 2**20  # the cluster's head holds the package in memory


# --- what is submitted --------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """One run as a job: the arguments of `ray job submit`."""

    run: str
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    notes: list[str]  # for the person who submits

    @property
    def settings(self) -> str:
        """A hash that is equal for two submissions of the same work."""
        return self.metadata[SETTINGS]


def prepare(
    recipe: str,
    loaded: Recipe,
    run: str,
    folder: str,
    *,
    until: str | None = None,
    overrides: list[str] | None = None,
) -> Submission:
    """Pack a run for a cluster.

    Args:
        recipe: name or YAML file, as the user gave it.
        loaded: the same recipe with the overrides.
        run: folder or URL that every node sees.
        folder: an empty folder on this machine; it becomes the job's working directory.
        until: last stage, or all.
        overrides: `a.b=c`, as the user gave them.

    Raises:
        UserError: a credential in what would be submitted, a file that cannot travel, or a
            package without its jobs/.
    """
    if not JOBS.is_dir():
        raise UserError(
            f"there is no {JOBS}: submit from a checkout of the repository (pip install -e .)"
        )
    if loaded.placement.cluster.address is not None:
        raise UserError(
            "placement.cluster.address is set: a submitted run joins the cluster that it is "
            "submitted to; leave it out"
        )
    environment = yaml.safe_load((JOBS / "run_pipeline.yaml").read_text(encoding="utf-8"))
    is_shipped = recipe in recipe_names()
    file = SHIPPED / f"{recipe}.yaml" if is_shipped else Path(recipe)
    refuse_credentials(
        {"--run": run, "--until": until or "", str(file): file.read_text(encoding="utf-8")}
        | {f"--set {override.partition('=')[0]}": override for override in overrides or []}
        | dict(_texts(loaded.model_dump(mode="json")))
        | {f"env_vars.{name} of jobs/": f"{name}={value}"
           for name, value in environment["env_vars"].items()}
    )  # fmt: skip
    for source in (PACKAGE, JOBS):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, Path(folder, source.name), ignore=skipped)
    taken, notes = _take_sources(loaded, Path(folder, TRAVELLING))
    text = _resolved_text(loaded, taken)
    if not is_shipped:
        recipe = f"{TRAVELLING}/{_plain(file.name)}"
        Path(folder, TRAVELLING).mkdir(exist_ok=True)
        Path(folder, recipe).write_text(text, encoding="utf-8")
    command = ["python", "jobs/run_pipeline.py", recipe, "--run", run]
    command += ["--until", until] if until else []
    moved = [f"{key}={_in_yaml(place)}" for key, place in taken.items()]
    for override in [*(overrides or []), *moved]:
        command += ["--set", override]
    entrypoint = shlex.join(command)
    digest = hashlib.sha256(json.dumps([entrypoint, text]).encode())
    return Submission(
        run,
        entrypoint,
        # No excludes, because the folder holds nothing but the files chosen above.
        {"working_dir": folder, "env_vars": environment["env_vars"]},
        {RUN: run, SETTINGS: digest.hexdigest()[:12]},
        notes,
    )


Place = str | list[str]  # a location as the job sees it, or those of a list


def _in_yaml(place: Place) -> str:
    return place if isinstance(place, str) else json.dumps(place)


def _resolved_text(loaded: Recipe, taken: dict[str, Place]) -> str:
    """The recipe as one YAML file: parents merged, locations as the job sees them."""
    content = loaded.model_dump(mode="json", exclude_unset=True)
    shipped = {
        f"settings.{key}": str(Path(value).relative_to(PACKAGE.parent))
        for key, _, value in locations(loaded.settings)
        if Path(value).is_relative_to(PACKAGE) and not list_of(key)
    }
    for key, place in (shipped | taken).items():
        *sections, name = key.split(".")
        node = content
        for section in sections:
            node = node[section]
        node[name] = place
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _take_sources(loaded: Recipe, target: Path) -> tuple[dict[str, Place], list[str]]:
    """Copy the recipe's local files; returns the settings that change with that, and notes.

    Raises:
        UserError: a relative path that does not exist or is too large.
    """
    taken: dict[str, Place] = {}
    notes: list[str] = []
    notes += [
        f"settings.{key}={value} is not packed: every node must reach "
        + ("that folder" if dataset_address(value).folder else "the hub, or have it in its cache")
        for key, _, value in locations(loaded.settings)
        if is_dataset(value)
    ]
    left = MAX_TRAVELLING_BYTES
    for local in _local_sources(loaded):
        setting, has_many = f"settings.{local.key}", local.location.has_many_files
        files = _files(local.paths, local.location) if local.location.is_packed else []
        size = sum(file.size for file in files)
        if files and size <= left:
            left -= size
            packed = {file.path: file.name if has_many else _plain(file.name) for file in files}
            for path, name in packed.items():
                copy = target / local.key / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            folder = f"{TRAVELLING}/{local.key}"
            taken[setting] = _packed_place(local, folder, packed)
            continue
        for path in local.paths:
            if os.path.isabs(path):
                notes.append(f"{setting}={path} is not packed: every node must see it there")
                continue
            reason = f"{size / 2**20:,.0f} MiB" if files else "not a file that can be packed"
            raise UserError(
                f"{setting}={path} cannot travel with the job ({reason}; "
                f"{MAX_TRAVELLING_BYTES // 2**20} MiB in all can): put it where every node sees it "
                f"and --set {setting}= to its URL (s3://...) or absolute path"
            )
    return taken, notes


def _packed_place(local: _LocalSource, folder: str, packed: dict[str, str]) -> Place:
    """The place of a setting's files in a packed folder: the folder, or each file in its turn."""
    if local.location.has_many_files:
        datasets = [value for value in local.values if is_dataset(value)]
        return [folder, *datasets] if datasets else folder
    places = [value if is_dataset(value) else f"{folder}/{packed[value]}" for value in local.values]
    return places if len(places) > 1 else places[0]


@dataclass(frozen=True)
class _LocalSource:
    """A setting whose files lie on this machine, and not in the package."""

    key: str
    location: Location
    paths: tuple[str, ...]  # on this machine
    values: tuple[str, ...]  # the same in their list, with all others of it


def _local_sources(loaded: Recipe) -> Iterator[_LocalSource]:
    """Settings whose value is a path, or a list with paths."""
    lists: dict[str, tuple[Location, list[str]]] = {}
    for key, location, value in locations(loaded.settings):
        if setting := list_of(key):
            lists.setdefault(setting, (location, []))[1].append(value)
        elif _is_local(value, location) and not Path(value).is_relative_to(PACKAGE):
            path = os.path.expanduser(value)
            yield _LocalSource(key, location, (path,), (path,))
    for key, (location, values) in lists.items():
        values = [v if is_dataset(v) else os.path.expanduser(v) for v in values]
        others = [value for value in values if not is_dataset(value)]
        paths = [value for value in others if _is_local(value, location)]
        # Packed files are one folder, in which each has its name in the whole list. With a URL in
        # the list they might get other names than on this machine.
        is_packed = location.is_packed and len(paths) == len(others)
        if paths:
            location = replace(location, is_packed=is_packed)
            yield _LocalSource(key, location, tuple(paths), tuple(values))


def _is_local(value: str, location: Location) -> bool:
    path = os.path.expanduser(value)
    # A base model that is no path is the id of a model on the hub.
    is_path = location.is_packed or path.startswith((".", "/")) or os.path.exists(path)
    return value != INSTALLED_PACKAGES and "://" not in value and is_path


def _files(paths: tuple[str, ...], location: Location) -> list[CorpusFile]:
    """The files at some paths of this machine; none if nothing exists at one of them."""
    if location.has_many_files:
        try:
            of_one = paths[0] if len(paths) == 1 else paths
            return list_files(of_one, location.suffixes or CORPUS_SUFFIXES)
        except UserError:
            return []
    if not all(map(os.path.isfile, paths)):
        return []
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    return [
        CorpusFile(path, name, os.path.getsize(path))
        for path, name in zip(paths, names, strict=True)
    ]


def _plain(name: str) -> str:
    """A file's name without characters that YAML or a shell would interpret."""
    return re.sub(r"[^\w.-]", "_", name)


# --- credentials --------------------------------------------------------------------------------

_CREDENTIAL = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@"  # a password in a URL
    r"|(?i:[?&;](?:[\w-]*(?:signature|secret|token|password|credential|key)|sig)=[^&\s])"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bhf_\w{20}|\bsk-[\w-]{20}|\bgh[pousr]_\w{20}|\bAIza[\w-]{30}"
    r"|-----BEGIN"
    r"|^(?:\w+_)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_\w+)?=."  # a variable
)


def refuse_credentials(texts: dict[str, str]) -> None:
    """Check texts that others will see, by the name that a person gives them.

    Raises:
        UserError: one looks like a credential; the message names it and does not show it.
    """
    for name, text in texts.items():
        if _CREDENTIAL.search(text):
            raise UserError(
                f"{name} looks like it holds a credential, and everybody who sees the job would "
                "see it: leave it out; the nodes take keys from their own environment or role"
            )


def _texts(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from _texts(value, f"{name}.{place}")
    elif isinstance(content, str):
        yield name, content
