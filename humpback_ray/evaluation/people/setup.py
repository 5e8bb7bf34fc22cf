"""From what a user asks for to a study that is drawn and recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people import items, outputs, study
from humpback_ray.evaluation.people.study import Kind, Study, StudySettings
from humpback_ray.evaluation.people.votes import VoteLog, add_returned

PEOPLE = "people"  # folder of a run for studies and votes
NONE = "none"  # as --screening: no such items
MAX_RATERS = 200


class Mode(StrEnum):
    """The raters' task, as the command line names it."""

    PAIRS = "pairs"
    LABELS = "labels"


@dataclass(frozen=True)
class Asked:
    """A user's wishes for a study; `items` and `study` say what they mean."""

    run_folder: str
    mode: Mode
    models: str | None
    raters: str
    number: int
    shared: float
    screening: str | None
    iteration: int | None
    random_seed: int


def parse_mode(mode: str) -> Mode:
    """A mode by its name.

    Raises:
        UserError: there is no such mode.
    """
    if mode not in list(Mode):
        raise UserError(f"--mode {mode}: give one of {', '.join(Mode)}")
    return Mode(mode)


def people_folder(run_folder: str, into: str | None) -> str:
    """The local folder of a run's studies and votes.

    Raises:
        UserError: it lies in an object store, where a vote cannot be appended.
    """
    folder = storage.absolute(into or storage.join(run_folder, PEOPLE))
    if storage.is_url(folder):
        raise UserError(
            f"votes cannot be appended at {folder}: give a folder of this machine as --into"
        )
    return folder


def draw_study(asked: Asked, folder: str) -> Study:
    """Draw the study and record it in the folder; the same wishes give the same study again.

    Raises:
        UserError: models, raters, files or rated pairs that are not as they should be.
    """
    kind = Kind.PAIR if asked.mode is Mode.PAIRS else Kind.LABEL
    settings = StudySettings(
        kind, parse_raters(asked.raters), shared=asked.shared, random_seed=asked.random_seed
    )
    no_screening = asked.screening == NONE
    screening = [] if no_screening else items.screening_items(asked.screening, kind)
    drawn = _drawn(asked, kind)
    made = study.make_study(settings, drawn.items, screening, drawn.left_out, drawn.pool)
    with storage.explained(folder):
        study.save(folder, made)
    return made


def _drawn(asked: Asked, kind: Kind) -> items.Drawn:
    if kind is Kind.LABEL:
        if asked.models:
            raise UserError(
                f"--models {asked.models}: labels are given to rated pairs of the run; leave "
                "--models out, or compare models with --mode pairs"
            )
        return items.label_items(asked.run_folder, asked.iteration, asked.number, asked.random_seed)
    names = [name.strip() for name in (asked.models or "").split(",") if name.strip()]
    answers = outputs.read_all(asked.run_folder, names)
    return items.pair_items(answers, asked.number, asked.random_seed)


def parse_raters(raters: str) -> tuple[str, ...]:
    """Names of raters, from a number or from names with commas between them.

    Raises:
        UserError: no rater, too many, one twice, or a name that a link cannot hold.
    """
    rule = f"give a number from 1 to {MAX_RATERS}, or names of letters, digits, - and _, as ann,ben"
    if raters.strip().isdecimal():
        number = int(raters)
        if not 1 <= number <= MAX_RATERS:
            raise UserError(f"--raters {raters}: {rule}")
        return tuple(str(n) for n in range(1, number + 1))
    names = tuple(name.strip() for name in raters.split(","))
    are_good = all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) for name in names)
    if not are_good or len(set(names)) < len(names) or len(names) > MAX_RATERS:
        raise UserError(f"--raters {raters}: {rule}, none twice")
    return names


def add_files(folder: str, files: Sequence[str]) -> list[str]:
    """Add votes that raters sent back as files; returns a line for each file.

    Raises:
        UserError: a file without any vote on the folder's studies, or the folder is in use.
    """
    if not files:
        return []
    log = VoteLog(folder)
    try:
        studies = study.load_all(folder)
        return [f"{file}: {add_returned(log, studies, file).as_line}" for file in files]
    finally:
        log.close()
