"""Rows of a stage, laid out for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import read_record
from humpback_ray.method import prompts, tokens
from humpback_ray.models.local import local_folder

# Folders of rows in a stage, the one to show first.
ROW_FOLDERS = ("rows", "dropped", "held_out", "samples")
HIDDEN_FIELDS = frozenset({"num_prompt_tokens", "num_generated_tokens"})
SHOWN_DIGITS = 3  # of a number, behind the point


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
            have no score to rank by, a file is damaged, or the folder cannot be read from here.
    """
    with storage.explained(folder), tables.damage_named(folder):
        rows_folder = _rows_folder(folder)
        filesystem, path = storage.arrow_filesystem(rows_folder)
        files = tables.parquet_files(filesystem, path)
        dataset = pads.dataset(files, filesystem=filesystem, format="parquet")
        condition = _condition(dataset, where)
        num_matching = dataset.count_rows(filter=condition)
        if ranked:
            shown = list(_ranked(dataset, condition, number, rows_folder))
        else:
            rows = dataset.head(number, filter=condition).to_pylist()
            fields_of = _fields_of_examples(rows_folder) if _has_examples(rows) else _fields
            shown = [_shown(row, fields_of) for row in rows]
    return Shown(rows_folder, shown, num_matching)


Fields = list[tuple[str, str]]


def _shown(row: dict[str, Any], fields_of: Callable[..., Fields], place: str = "") -> ShownRow:
    return ShownRow(f"{place}{next(iter(row.values()))}", fields_of(row))


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
        yield _shown(row, _fields, f"{part}, {place + 1} of {len(order)}: ")


def _rows_folder(folder: str) -> str:
    for candidate in [folder, *(storage.join(folder, name) for name in ROW_FOLDERS)]:
        if any(name.endswith(".parquet") for name in storage.names(candidate)):
            return candidate
    folders = sorted(n for n in storage.names(folder) if "." not in n and not n.startswith("_"))
    hint = f"; there are {', '.join(folders)}" if folders else ""
    raise UserError(f"no rows in {folder}: name a stage that holds rows, as RUN/STAGE{hint}")


# --- conditions -----------------------------------------------------------------------------------


def _condition(dataset: Any, where: list[str]) -> Any:
    condition = None
    # A list of numbers has no one value to compare.
    types = {field.name: field.type for field in dataset.schema if not pa.types.is_list(field.type)}
    for clause in where:
        name, separator, value = clause.partition("=")
        if not separator or name not in types:
            raise UserError(
                f"--where {clause}: give field=value with a field of {', '.join(types)}"
            )
        matches = _matches(pads.field(name), types[name], value, clause)
        condition = matches if condition is None else condition & matches
    return condition


def _matches(field: Any, kind: pa.DataType, value: str, clause: str) -> Any:
    """The condition that a field has a value, which a person may give as it is shown."""
    if pa.types.is_string(kind):
        return field == value
    if value == "null":
        return field.is_null()
    try:
        if pa.types.is_boolean(kind):
            return field == {"true": True, "false": False}[value.lower()]
        if pa.types.is_integer(kind):
            return field == int(value)
        return pc.abs(pc.subtract(field, float(value))) <= 0.5 * 10**-SHOWN_DIGITS
    except (KeyError, ValueError):
        wanted = "true or false" if pa.types.is_boolean(kind) else "a number"
        raise UserError(f"--where {clause}: the value must be {wanted}, or null") from None


# --- fields in reading order ----------------------------------------------------------------------


def _fields(row: dict[str, Any]) -> Fields:
    return [
        (name, _as_text(value)) for name, value in list(row.items())[1:]
        if name not in HIDDEN_FIELDS and value not in (None, "")
    ]  # fmt: skip


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{SHOWN_DIGITS}f}"
    if isinstance(value, list):
        return " ".join(_as_text(entry) for entry in value)
    text = str(value)
    return f"\n{text}" if "\n" in text else text


def _has_examples(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and {"origin", "prompt", "tag", "completion"} <= rows[0].keys()


def _fields_of_examples(folder: str) -> Callable[[dict[str, Any]], Fields]:
    """A function that shows apart which text of an example has no loss and which one has.

    An example may be longer than its training reads, which only the training's tokenizer tells.
    """
    training = _training_beside(folder)

    def fields_of(row: dict[str, Any]) -> Fields:
        masked = prompts.render(row["prompt"], row["tag"]) if row["prompt"] else ""
        if training is None:
            trained = ("to be trained on, up to max_length", f"\n{row['completion']}<end>")
        else:
            trained = training.trained_text(row)
        return [("origin", row["origin"]), ("masked, no loss", f"\n{masked}"), trained]

    return fields_of


@dataclass(frozen=True)
class _TrainingSettings:
    """The settings in a training's record that a view needs."""

    max_length: int
    too_long: str


@dataclass(frozen=True)
class _Training:
    """A finished training: what it reads of an example."""

    tokenizer: Any
    max_length: int
    drops_long: bool

    def trained_text(self, row: dict[str, Any]) -> tuple[str, str]:
        """The text that carries the loss, as far as it is trained on, under its name."""
        parts = (row["prompt"], row["tag"], row["completion"])
        example = tokens.example_ids(self.tokenizer, *parts, self.max_length)
        if example is None:
            return "not trained on", f"the prompt leaves no room in max_length {self.max_length}"
        if example.ids[-1] == self.tokenizer.eos_token_id:
            return "trained on", f"\n{row['completion']}<end>"
        if self.drops_long:
            return "not trained on", f"longer than max_length {self.max_length}, too_long is drop"
        ids = example.ids[example.num_prompt :]
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return "trained on", f"\n{text}<cut at max_length {self.max_length}, no end token>"


def _training_beside(folder: str) -> _Training | None:
    """The training of the examples in a folder; None if no finished one can be read beside it."""
    stage = folder.removesuffix("/rows")
    if not stage.endswith("/examples"):
        return None
    model = storage.join(stage.rpartition("/")[0], "model")
    try:
        record = read_record(model)
        if record is None:
            return None
        settings = storage.as_type(record.identity["settings"], _TrainingSettings, model)
    except (UserError, KeyError):  # a damaged record is no reason to hide the rows
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(model, weights=False))
    except ValueError:  # it comes with code, which is not run for a look at rows
        return None
    return _Training(tokenizer, settings.max_length, settings.too_long == "drop")
