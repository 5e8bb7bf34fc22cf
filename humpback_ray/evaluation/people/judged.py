"""Verdicts of a run's judge on the pairs of models that people compare too.

The judge's own files for AlpacaEval have each model against the reference only. Its rows have every
game, M_2 : M_1 among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.evaluation import alpaca_files, games
from humpback_ray.execution.stage import RECORD, read_record
from humpback_ray.rows import Verdict

JUDGEMENT = "judgement"  # folder of the stage, below the run's
Names = tuple[str, str]


def read_annotations(run_folder: str) -> list[dict[str, Any]]:
    """A judge's verdicts as AlpacaEval's annotations, one for each prompt of each game.

    Annotations in the run's `judgement/alpaca_eval` count where its rows have no such game, so a
    run without a judge may have those of another one there.

    Raises:
        UserError: the judgement is damaged, or another version of this program wrote it.
    """
    folder = storage.join(run_folder, JUDGEMENT)
    own = _of_rows(folder)
    played = {(row["generator_1"], row["generator_2"]) for row in own}
    files = storage.join(folder, "alpaca_eval")
    others = [
        row
        for model in sorted(storage.names(files))
        for row in _of_file(storage.join(files, model, "annotations.json"))
        if (row["generator_1"], row["generator_2"]) not in played
    ]
    return [*own, *others]


def _of_rows(folder: str) -> list[dict[str, Any]]:
    """Every game of the judgement in a folder; nothing before it is done."""
    record = read_record(folder)
    rows = storage.join(folder, "rows")
    if record is None or not storage.names(rows):
        return []
    judge = str(record.figures.get("judge", ""))
    verdicts = tables.read_rows(rows, Verdict)
    if lacking := games.num_halves(verdicts):
        raise UserError(
            f"{lacking:,} prompts of the games in {rows} have not one verdict in each order: the "
            "rows are damaged, so put a copy back"
        )
    return [
        annotation
        for game in games.games_of(verdicts)
        if not game.is_control
        for annotation in alpaca_files.annotation_rows(game, judge)
    ]


@dataclass(frozen=True)
class _Control:
    """The fields of a control that say if the judge's win rates count."""

    name: str
    passed: bool


def read_failed_controls(run_folder: str) -> tuple[str, ...] | None:
    """Names of the controls that a run's judge fails; None where the run has no judge of its own.

    Raises:
        UserError: the judgement's record is damaged, or another version of the program wrote it.
    """
    folder = storage.join(run_folder, JUDGEMENT)
    record = read_record(folder)
    if record is None or "controls" not in record.figures:
        return None
    place = f"the controls in {storage.join(folder, RECORD)}"
    controls = storage.as_type(record.figures["controls"], list[_Control], place)
    return tuple(control.name for control in controls if not control.passed)


@dataclass(frozen=True)
class _Annotation:
    """The fields of an annotation that a comparison needs, whoever wrote it."""

    instruction: str
    generator_1: str
    generator_2: str
    preference: float | None


def _of_file(url: str) -> list[dict[str, Any]]:
    """The annotations in a file of AlpacaEval's format; none without the file."""
    if not storage.exists(url):
        return []
    content = storage.read_json(url)
    storage.as_type(content, list[_Annotation], url)
    return list(content)


def of_pair(annotations: Sequence[dict[str, Any]], names: Names) -> list[dict[str, Any]]:
    """The annotations of one pair of models, turned so that the first one is `generator_2`."""
    first, second = names
    found = []
    for row in annotations:
        if (row["generator_1"], row["generator_2"]) == (second, first):
            found.append(row)
        elif (row["generator_1"], row["generator_2"]) == (first, second):
            found.append(_turned(row))
    return found


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    """The same verdict with the models' places exchanged; older files have 0 for a draw."""
    turned = dict(row)
    for name in ("generator", "output"):
        turned[f"{name}_1"], turned[f"{name}_2"] = row.get(f"{name}_2"), row.get(f"{name}_1")
    preference = row["preference"]
    turned["preference"] = preference if preference in (None, 0) else 3 - preference
    return turned
