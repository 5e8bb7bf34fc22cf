"""The repositories of a run's models and data on the hub: every file, before one is uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import METRICS, PROGRESS, RECORD, STARTED
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import StageFigures
from humpback_ray.models.card import CARD_FILE
from humpback_ray.publishing.dataset_cards import config_name, dataset_card
from humpback_ray.publishing.model_cards import model_card
from humpback_ray.publishing.places import without_places
from humpback_ray.publishing.run_models import chosen_models, finished_examples
from humpback_ray.report.run_report import FOLDER

CARDS = "cards"  # in the run's folder of reports
# Of a stage, not of its model; they name machines.
OF_THE_STAGE = frozenset({RECORD, STARTED, PROGRESS, METRICS})

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class PushRequest:
    """The user's choices for a push."""

    run_folder: str  # absolute path or URL
    owner: str | None = None  # user or organisation on the hub
    name: str | None = None  # of the repositories, before the model; None: the run's
    models: tuple[str, ...] = ()  # M_yx, M_0, ...; empty: M_0 and every M_t
    licence: str | None = None  # of the data; None: not known


@dataclass(frozen=True)
class PlannedFile:
    """A file of a repository."""

    path: str  # in the repository
    location: str  # local path or URL
    num_bytes: int


@dataclass(frozen=True)
class Repository:
    """A repository with its card and files."""

    repo_id: str  # OWNER/NAME; NAME without an owner
    kind: Kind
    files: tuple[PlannedFile, ...]  # the card first

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)


def plan_push(request: PushRequest) -> list[Repository]:
    """Write the cards of a run into its folder; returns the repositories, the data's first.

    Raises:
        UserError: no such run, a model that is not finished, a name that the hub refuses, or a
            folder that cannot be read or written.
    """
    found = figures_of(request.run_folder)
    models, examples = chosen_models(found, request.models), finished_examples(found)
    figures = without_places(found)
    name = request.name or figures.run
    dataset = _repo_id(request, f"{name}-curated") if examples else None
    linked = dataset if request.owner else None  # the hub refuses an id without its owner
    repo_ids = {model.name: _repo_id(request, f"{name}-{model.name}") for model in models}
    with storage.explained(request.run_folder):
        repositories = []
        if dataset:
            card = dataset_card(examples, figures, request.licence)
            files = _example_files(request.run_folder, examples)
            repositories.append(_repository(request, dataset, "dataset", card, files))
        for model in models:
            folder = storage.join(request.run_folder, model.stage.path)
            card = model_card(model, figures, _readme(folder), linked, request.licence)
            files = _model_files(folder)
            repositories.append(_repository(request, repo_ids[model.name], "model", card, files))
    return repositories


def _repo_id(request: PushRequest, name: str) -> str:
    """The id of a repository, checked as the hub's own client does it."""
    repo_id = f"{request.owner}/{name}" if request.owner else name
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(
            f"the hub takes no repository {repo_id} ({storage.one_line(error)}): give --to the "
            "name of a user or organisation, and --name another name"
        ) from error
    return repo_id


def _repository(
    request: PushRequest, repo_id: str, kind: Kind, card: str, files: Sequence[PlannedFile]
) -> Repository:
    folder = storage.join(request.run_folder, FOLDER, CARDS, storage.name(repo_id))
    location = storage.join(folder, CARD_FILE)
    storage.write_text(location, card)
    written = PlannedFile(CARD_FILE, location, len(card.encode()))
    return Repository(repo_id, kind, (written, *files))


def _example_files(run_folder: str, examples: dict[int, StageFigures]) -> list[PlannedFile]:
    found = []
    for iteration, stage in sorted(examples.items()):
        rows = storage.join(run_folder, stage.path, "rows")
        for file in _files(rows):
            if file.path.endswith(".parquet"):
                path = f"{config_name(iteration)}/{file.path}"
                found.append(PlannedFile(path, file.location, file.num_bytes))
    return found


def _model_files(folder: str) -> list[PlannedFile]:
    """The files that the export wrote, without the card, which another one replaces."""
    return [file for file in _files(folder) if file.path not in {CARD_FILE, *OF_THE_STAGE}]


def _files(folder: str) -> list[PlannedFile]:
    """The visible files of a folder, by name, without those of its folders."""
    filesystem, path = storage.locate(folder)
    return [
        PlannedFile(name, storage.join(folder, name), int(entry["size"]))
        for entry in sorted(filesystem.ls(path, detail=True), key=lambda entry: entry["name"])
        if entry["type"] == "file" and not (name := storage.name(entry["name"])).startswith(".")
    ]


def _readme(folder: str) -> str:
    """The README of a model's folder; empty without one."""
    if CARD_FILE not in storage.names(folder):
        return ""
    filesystem, path = storage.locate(storage.join(folder, CARD_FILE))
    return str(filesystem.cat_file(path).decode(errors="replace"))
