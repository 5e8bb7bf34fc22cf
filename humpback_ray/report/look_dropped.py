"""Dropped rows of a stage, each duplicate beside the kept text that it repeats."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.method.filters import segment_id
from humpback_ray.report.look import Shown, ShownRow, select_rows

DROPPED = "dropped"
# Text columns of the stages that drop duplicates, with the column of the text's hash.
TEXTS = {"text": "segment_id", "instruction": "instruction_id"}

LOST = "(the text that it repeats is not among the rows)"


@dataclass(frozen=True)
class Repetition:
    """A dropped text and the kept one; what is shown above them, and the rest of the row."""

    row: ShownRow
    dropped: str
    kept: str


def select_dropped(
    stage: str, number: int, outcome: str, where: list[str]
) -> tuple[Shown, list[Repetition]]:
    """The first rows that a stage dropped for a reason.

    Returns:
        The rows, and for duplicates the same rows with both texts.

    Raises:
        UserError: the stage drops no rows, or none for this reason; the message lists the reasons.
            Otherwise as `select_rows`.
    """
    folder = storage.join(stage, DROPPED)
    with storage.explained(folder), tables.damage_named(folder):
        if not storage.exists(folder):
            raise UserError(f"{stage} has no dropped rows: name RUN/segments, for example")
        counts = tables.count_values(folder, "outcome")
        if not counts[outcome]:
            reasons = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
            raise UserError(
                f"--dropped {outcome}: {folder} has no such rows; there are {reasons or 'none'}"
            )
        shown = select_rows(folder, number, [f"outcome={outcome}", *where])
        return shown, list(_repetitions(stage, shown))


def _repetitions(stage: str, shown: Shown) -> Iterator[Repetition]:
    rows = [(row, dict(row.fields)) for row in shown.rows]
    repeating = [(row, fields) for row, fields in rows if "duplicate_of" in fields]
    if not repeating:
        return
    text = next((name for name in TEXTS if name in repeating[0][1]), None)
    if text is None:
        return
    kept = _texts_of(stage, text, {fields["duplicate_of"] for _, fields in repeating})
    for row, fields in repeating:
        rest = [entry for entry in row.fields if entry[0] not in (text, "outcome")]
        other = kept.get(fields["duplicate_of"], LOST)
        own = fields.get(text, "")
        yield Repetition(ShownRow(row.title, rest), own.removeprefix("\n"), other)


def _texts_of(stage: str, text: str, ids: Collection[str]) -> Mapping[str, str]:
    """The texts with these hashes, among the kept rows first.

    An exact duplicate may repeat a text that is itself a near-duplicate, so that it was dropped.
    """
    found: dict[str, str] = {}
    for folder in ("rows", DROPPED):
        for batch in tables.scan(storage.join(stage, folder)):
            texts = batch[text].to_pylist()
            for name, value in zip(_hashes(batch, text, texts), texts, strict=True):
                if name in ids:
                    found.setdefault(name, value)
        if len(found) == len(ids):
            break
    return found


def _hashes(batch: Any, text: str, texts: list[str]) -> list[str]:
    """The hashes of a batch's texts; rows of candidates do not hold them."""
    if TEXTS[text] in batch.schema.names:
        return list(batch[TEXTS[text]].to_pylist())
    return [segment_id(value) for value in texts]
