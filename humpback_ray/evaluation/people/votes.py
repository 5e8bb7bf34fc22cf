"""The votes of people: one JSON line each, appended and synced before the rater's page goes on.

The file only grows. An undone vote is a second line with the same `vote_id`, so a reader takes
`counted`, which knows which votes stand.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people.study import Kind, Study, sides
from humpback_ray.execution import clock

VOTES = "votes.jsonl"
CHOICES = {
    Kind.PAIR: ("left", "tie", "right", "skip"),
    Kind.LABEL: ("good", "unsure", "bad", "skip"),
}
SKIP = "skip"
MAX_NOTE = 4000  # characters
MAX_SECONDS = 1e6


class CastVote(BaseModel):
    """A vote as a page sends it or a returned file holds it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vote_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    item: str = Field(pattern=r"^[0-9a-f]{16}$")  # a `shown_id`
    choice: Literal["left", "tie", "right", "good", "unsure", "bad", "skip"]
    seconds: float = Field(ge=0, le=MAX_SECONDS)
    reason: str = Field("", max_length=100)  # of a skip
    note: str = Field("", max_length=MAX_NOTE)
    undone: bool = False


@dataclass(frozen=True)
class Vote:
    """A vote joined with what was shown. A label's text is `left`, and `right` is empty."""

    vote_id: str
    kind: str
    study: str
    rater: str
    item_id: str
    shown_id: str
    instruction: str
    left: str
    right: str
    left_model: str
    right_model: str
    candidate_id: str
    dataset: str
    choice: str
    reason: str
    note: str
    seconds: float
    is_screening: bool
    is_repeat: bool
    known: str  # the right choice of a screening item
    undone: bool
    time: str

    @property
    def chosen(self) -> str:
        """The vote whichever side the texts had: a model's name, `tie`, `skip` or a label."""
        return {"left": self.left_model, "right": self.right_model}.get(self.choice, self.choice)


_VOTE = TypeAdapter(Vote)


def join(study: Study, rater: str, cast: CastVote) -> Vote:
    """A vote with texts, models and what the study knows of its item.

    Raises:
        UserError: the rater's sheet has no such item, or its kind has no such choice.
    """
    shown = study.shown(rater).get(cast.item)
    if shown is None:
        raise UserError(f"item {cast.item} is none of rater {rater}'s in study {study.study_id}")
    kind = study.settings.kind
    if cast.choice not in CHOICES[kind]:
        raise UserError(f"choice {cast.choice}: a {kind} takes {', '.join(CHOICES[kind])}")
    item = study.items[shown.item_id]
    left, right = sides(item, shown)
    is_pair = kind is Kind.PAIR
    known = item.known
    if is_pair and known:
        known = "left" if left == known else "right"
    return Vote(
        kind=kind.value, study=study.study_id, rater=rater, item_id=item.item_id,
        shown_id=shown.shown_id, instruction=item.instruction, left=item.texts[left],
        right=item.texts[right] if right else "", left_model=left if is_pair else "",
        right_model=right, candidate_id=item.candidate_id, dataset=item.dataset, known=known,
        is_screening=item.is_screening, is_repeat=shown.is_repeat, time=clock.utc_now(),
        vote_id=cast.vote_id, choice=cast.choice, seconds=cast.seconds, note=cast.note,
        reason=cast.reason if cast.choice == SKIP else "", undone=cast.undone,
    )  # fmt: skip


class VoteLog:
    """The votes of a folder, open for appending by this process alone."""

    def __init__(self, folder: str) -> None:
        """Open the file; the end of a vote that a crash cut is removed.

        Raises:
            UserError: another process has the file open, or it cannot be written.
        """
        self.path = Path(folder) / VOTES
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(
                f"cannot write votes to {self.path} ({error.strerror}): give --into a folder on "
                "this machine that can be written"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise UserError(
                f"another process has {self.path} open: stop that `humpback annotate` first, or "
                "give another folder as --into"
            ) from error
        _remove_cut_line(self._file)
        self.votes, self.num_unreadable = read_votes(folder)
        self._seen = {(vote.vote_id, vote.undone) for vote in self.votes}

    def add(self, vote: Vote) -> bool:
        """Append a vote and wait until the disk has it; False if the file has it already.

        Raises:
            OSError: the disk refuses it; the file then is as it was before.
        """
        with self._lock:
            if (vote.vote_id, vote.undone) in self._seen:
                return False
            end = os.lseek(self._file, 0, os.SEEK_END)
            # ASCII alone, because texts may hold lone surrogates and line separators.
            line = (json.dumps(asdict(vote)) + "\n").encode("ascii")
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, end)
                raise
            self._seen.add((vote.vote_id, vote.undone))
            self.votes.append(vote)
            return True

    def of(self, study: Study, rater: str) -> list[Vote]:
        """A rater's standing votes on a study, in the order of the last change."""
        with self._lock:
            mine = [v for v in self.votes if v.study == study.study_id and v.rater == rater]
        return counted(mine)

    def close(self) -> None:
        """Close the file for another process to open."""
        os.close(self._file)


def _remove_cut_line(file: int) -> None:
    """Cut a file after its last line feed. What follows was never confirmed to a rater."""
    content = os.pread(file, os.fstat(file).st_size, 0)
    os.ftruncate(file, content.rfind(b"\n") + 1)


def read_votes(folder: str) -> tuple[list[Vote], int]:
    """Every line of a folder's votes, undone ones too, and the number of unreadable lines."""
    path = Path(folder) / VOTES
    if not path.exists():
        return [], 0
    votes, num_unreadable = [], 0
    for line in path.read_bytes().splitlines():
        if (vote := _vote(line)) is None:
            num_unreadable += 1
        else:
            votes.append(vote)
    return votes, num_unreadable


def _vote(line: bytes) -> Vote | None:
    try:
        return _VOTE.validate_python(storage.parse_json(line))
    except ValueError:  # pydantic's too
        return None


def counted(votes: Iterable[Vote]) -> list[Vote]:
    """The votes that stand: not undone, and of several on one place the last."""
    votes = list(votes)
    undone = {vote.vote_id for vote in votes if vote.undone}
    standing: dict[tuple[str, str, str], Vote] = {}
    for vote in votes:
        if vote.vote_id not in undone:
            place = (vote.study, vote.rater, vote.shown_id)
            standing.pop(place, None)
            standing[place] = vote
    return list(standing.values())


# --- files that raters send back ------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """The fate of the lines of a returned file. The counts add up to `num_lines`."""

    num_lines: int
    num_added: int
    num_known: int  # the folder has them already
    refused: Mapping[str, int]  # by reason

    @property
    def as_line(self) -> str:
        """The counts in one line."""
        refused = [f"{count} refused ({reason})" for reason, count in self.refused.items()]
        parts = [f"{self.num_added} added", f"{self.num_known} known before", *refused]
        return f"{self.num_lines} lines: {', '.join(parts)}"


class _ReturnedLine(CastVote):
    study: str
    rater: str


def add_returned(log: VoteLog, studies: Mapping[str, Study], file: str) -> Returned:
    """Add the votes of a file that a rater's page has saved.

    Raises:
        UserError: no such file, or not one of its votes belongs to a study of the folder.
    """
    try:
        lines = [line for line in Path(file).read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read votes from {file}: {error.strerror}") from error
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for line in lines:
        vote = _returned(line, studies)
        if isinstance(vote, str):
            refused[vote] += 1
        else:
            counts["added" if log.add(vote) else "known"] += 1
    if not counts:
        raise UserError(
            f"{file} has no vote of a study in {log.path.parent} ({dict(refused) or 'no line'}): "
            "give the RUN, or the --into folder, that made the rater's page"
        )
    assert counts.total() + refused.total() == len(lines)
    return Returned(len(lines), counts["added"], counts["known"], refused)


def _returned(line: bytes, studies: Mapping[str, Study]) -> Vote | str:
    """A returned vote, or the reason against it."""
    try:
        cast = _ReturnedLine.model_validate_json(line)
    except ValueError:
        return "not a vote"
    study = studies.get(cast.study)
    if study is None:
        return "another study"
    if cast.rater not in study.sheets:
        return "unknown rater"
    try:
        return join(study, cast.rater, cast)
    except UserError:
        return "unknown item or choice"


def public(vote: Vote) -> dict[str, Any]:
    """The part of a vote that a rater's page gets back."""
    names = ("vote_id", "choice", "reason", "note")
    return {"item": vote.shown_id} | {name: getattr(vote, name) for name in names}
