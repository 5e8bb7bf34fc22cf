"""What travels with a run to a cluster: the recipe and its small files, and no credentials."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from humpback_ray.config.recipe import Recipe, recipe_names
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.files import list_files
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
    """One run as a job: what `ray job submit` would be given."""

    run: str
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    notes: list[str]  # for the person who submits

    @property
    def settings(self) -> str:
        """Equal for two submissions that would do the same."""
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
        loaded: what it says, with the overrides.
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
    file = PACKAGE / "recipes" / f"{recipe}.yaml" if is_shipped else Path(recipe)
    text = file.read_text(encoding="utf-8")
    refuse_credentials(
        {"--run": run, "--until": until or "", str(file): text}
        | {f"--set {override.partition('=')[0]}": override for override in overrides or []}
        | dict(_texts(loaded.model_dump(mode="json")))
        | {f"env_vars.{name} of jobs/": f"{name}={value}"
           for name, value in environment["env_vars"].items()}
    )  # fmt: skip
    for source in (PACKAGE, JOBS):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, Path(folder, source.name), ignore=skipped)
    taken, notes = _take_sources(loaded, Path(folder, TRAVELLING))
    if not is_shipped:
        recipe = f"{TRAVELLING}/{_plain(file.name)}"
        Path(folder, TRAVELLING).mkdir(exist_ok=True)
        shutil.copyfile(file, Path(folder, recipe))
    command = ["python", "jobs/run_pipeline.py", recipe, "--run", run]
    command += ["--until", until] if until else []
    for override in [*(overrides or []), *(f"{key}={path}" for key, path in taken.items())]:
        command += ["--set", override]
    entrypoint = shlex.join(command)
    digest = hashlib.sha256(json.dumps([entrypoint, text]).encode())
    return Submission(
        run,
        entrypoint,
        # What is in the folder was chosen above: nothing of it is left out.
        {"working_dir": folder, "env_vars": environment["env_vars"]},
        {RUN: run, SETTINGS: digest.hexdigest()[:12]},
        notes,
    )


# Settings that name a file or folder. The base model is never packed: it is large, and trainings
# find their checkpoints by its path.
SOURCES = ("seed.path", "corpus.path", "evaluation.prompts", "prompts.rating_template")


def _take_sources(loaded: Recipe, target: Path) -> tuple[dict[str, str], list[str]]:
    """Copy what the recipe names on this machine; returns the settings that then change, and notes.

    Raises:
        UserError: a relative path that is not here or is too large.
    """
    taken: dict[str, str] = {}
    notes: list[str] = []
    left = MAX_TRAVELLING_BYTES
    for key, path in _named_here(loaded):
        setting = f"settings.{key}"
        is_corpus = key == "corpus.path"
        files = _files(path, is_corpus=is_corpus) if key != "base.model" else []
        size = sum(file.size for file in files)
        if files and size <= left:
            left -= size
            for file in files:
                copy = target / key / (file.name if is_corpus else _plain(Path(path).name))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, copy)
            place = f"{TRAVELLING}/{key}"
            taken[setting] = place if is_corpus else f"{place}/{_plain(Path(path).name)}"
        elif os.path.isabs(path):
            notes.append(f"{setting}={path} is not packed: every node must see it there")
        else:
            reason = f"{size / 2**20:,.0f} MiB" if files else "not a file that can be packed"
            raise UserError(
                f"{setting}={path} cannot travel with the job ({reason}; "
                f"{MAX_TRAVELLING_BYTES // 2**20} MiB in all can): put it where every node sees it "
                f"and --set {setting}= to its URL (s3://...) or absolute path"
            )
    return taken, notes


def _named_here(loaded: Recipe) -> Iterator[tuple[str, str]]:
    """Settings whose value is a path that does not come with the package, with that path."""
    settings = loaded.settings
    for key in SOURCES:
        section, name = key.split(".")
        path = getattr(getattr(settings, section), name)
        if path is None or path == INSTALLED_PACKAGES or "://" in path:
            continue
        if not Path(path).is_relative_to(PACKAGE):
            yield key, os.path.expanduser(path)
    model = getattr(settings.base, "model", "https://")
    if model.startswith((".", "~", "/")) or os.path.exists(model):
        yield "base.model", model


def _files(path: str, *, is_corpus: bool) -> list[CorpusFile]:
    """The files at a path of this machine; none where there is nothing."""
    if not is_corpus:
        there = os.path.isfile(path)
        return [CorpusFile(path, path, os.path.getsize(path))] if there else []
    try:
        return list_files(path)
    except UserError:
        return []


def _plain(name: str) -> str:
    """A file's name that means the same in YAML and in a shell."""
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
    """Look at texts that others will see, by what a person calls them.

    Raises:
        UserError: one looks like a credential; it is named and not shown.
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
