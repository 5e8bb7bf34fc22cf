"""Rows of a stage, laid out for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.dataset as pads

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.method import prompts

# Folders of rows in a stage, the one to show first.
ROW_FOLDERS = ("rows", "dropped", "held_out", "samples")
HIDDEN_FIELDS = frozenset({"num_prompt_tokens", "num_generated_tokens"})


@dataclass(frozen=True)
class ShownRow:
    """A row as a title and its fields as (name, text), in reading order."""

    title: str
    fields: list[tuple[str, str]]


@dataclass(frozen=True)
class Shown:
    """The rows to show, and the number of rows that match."""

    folder: str
    rows: list[ShownRow]
    num_matching: int


def select_rows(folder: str, number: int, where: list[str], *, ranked: bool = False) -> Shown:
    """The first rows of a stage that match every `field=value`.

    Args:
        folder: a stage's folder, or one of its folders of rows.
        number: how many rows, or with `ranked` how many of each kind.
        where: conditions as `field=value`.
        ranked: the rows with the best, the middle and the worst scores instead of the first ones.

    Raises:
        UserError: no such stage, field or value; the message lists those that exist. Or the rows
            have no score to rank by, or the folder cannot be read from here.
    """
    with storage.explained(folder):
        rows_folder = _rows_folder(folder)
        filesystem, path = storage.arrow_filesystem(rows_folder)
        files = tables.parquet_files(filesystem, path)
        dataset = pads.dataset(files, filesystem=filesystem, format="parquet")
        condition = _condition(dataset, where)
        num_matching = dataset.count_rows(filter=condition)
        if ranked:
            shown = list(_ranked(dataset, condition, number, rows_folder))
        else:
            shown = list(map(_shown, dataset.head(number, filter=condition).to_pylist()))
    return Shown(rows_folder, shown, num_matching)


def _shown(row: dict[str, Any], place: str = "") -> ShownRow:
    return ShownRow(f"{place}{next(iter(row.values()))}", _readable(row))


def _ranked(dataset: Any, condition: Any, number: int, folder: str) -> Iterator[ShownRow]:
    """The best, the middle and the worst `number` rows with a score, none of them twice."""
    if "score" not in dataset.schema.names:
        raise UserError(f"{folder} has no scores to rank by: name RUN/iter-1/rated, for example")
    has_score = pads.field("score").is_valid()
    condition = has_score if condition is None else has_score & condition
    # Ids and scores alone first: texts of all rows need not fit into memory.
    name = dataset.schema.names[0]
    table = dataset.to_table(columns=[name, "score"], filter=condition)
    order = table.sort_by([("score", "descending"), (name, "ascending")])[name].to_pylist()
    start = max((len(order) - number) // 2, 0)
    parts = {
        "best": range(min(number, len(order))),
        "middle": range(start, min(start + number, len(order))),
        "worst": range(max(len(order) - number, 0), len(order)),
    }
    places: dict[str, tuple[int, str]] = {}
    for part in ("best", "worst", "middle"):
        for place in parts[part]:
            places.setdefault(order[place], (place, part))
    rows = dataset.to_table(filter=condition & pads.field(name).isin(list(places))).to_pylist()
    for row in sorted(rows, key=lambda row: places[row[name]][0]):
        place, part = places[row[name]]
        yield _shown(row, f"{part}, {place + 1} of {len(order)}: ")


def _rows_folder(folder: str) -> str:
    for candidate in [folder, *(storage.join(folder, name) for name in ROW_FOLDERS)]:
        if any(name.endswith(".parquet") for name in storage.names(candidate)):
            return candidate
    folders = sorted(n for n in storage.names(folder) if "." not in n and not n.startswith("_"))
    hint = f"; there are {', '.join(folders)}" if folders else ""
    raise UserError(f"no rows in {folder}: name a stage that holds rows, as RUN/STAGE{hint}")


def _condition(dataset: Any, where: list[str]) -> Any:
    condition = None
    for clause in where:
        name, separator, value = clause.partition("=")
        if not separator or name not in dataset.schema.names:
            fields = ", ".join(dataset.schema.names)
            raise UserError(f"--where {clause}: give field=value with a field of {fields}")
        matches = pads.field(name).cast("string") == value
        condition = matches if condition is None else condition & matches
    return condition


def _readable(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Fields in reading order. A training example shows apart what the loss is computed on."""
    if "completion" in row:
        text = prompts.render(row["prompt"], row["tag"]) if row["prompt"] else ""
        return [
            ("origin", row["origin"]),
            ("masked, no loss", f"\n{text}"),
            ("trained on", f"\n{row['completion']}<end>"),
        ]
    fields = list(row.items())[1:]
    return [
        (name, _as_text(value)) for name, value in fields
        if name not in HIDDEN_FIELDS and value not in (None, "")
    ]  # fmt: skip


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " ".join(_as_text(entry) for entry in value)
    text = str(value)
    return f"\n{text}" if "\n" in text else text
