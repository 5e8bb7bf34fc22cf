"""The items of a study: pairs of answers, single pairs by score, and screening items."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.evaluation.model_outputs import ModelOutputs
from humpback_ray.evaluation.people.study import BETTER, RESPONSE, WORSE, Item, Kind, draw

ITERATION = "iter-"  # a run has one such folder per iteration
RATED = "rated"


@dataclass(frozen=True)
class Drawn:
    """Items, and the number of prompts or pairs that gave none, by reason."""

    items: list[Item]
    left_out: Mapping[str, int]
    pool: Mapping[str, int]  # scored pairs by stratum of the score


# --- pairs of answers -----------------------------------------------------------------------------


def pair_items(outputs: Sequence[ModelOutputs], number: int, seed: int) -> Drawn:
    """Pairs of the first model's answers with every other model's, `number` of each.

    Raises:
        UserError: two models have no prompt in common on which their answers differ.
    """
    first, *others = outputs
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for other in others:
        pairs, reasons = _pairs(first, other, seed)
        if not pairs:
            raise UserError(
                f"{first.model} and {other.model} share no prompt with different answers "
                f"({dict(reasons)}): give --models whose outputs answer the same prompts"
            )
        left_out.update({f"{other.model}: {reason}": count for reason, count in reasons.items()})
        left_out[f"{other.model}: not drawn"] += max(len(pairs) - number, 0)
        items += pairs[:number]
    for output in outputs:
        left_out.update({f"{output.model}: {reason}": n for reason, n in output.left_out.items()})
    return Drawn(items, +left_out, {})


def _pairs(first: ModelOutputs, other: ModelOutputs, seed: int) -> tuple[list[Item], Counter[str]]:
    """Pairs in drawn order; each prompt of the first model is one or has a reason."""
    reasons: Counter[str] = Counter()
    items = []
    for prompt in sorted(first.by_prompt, key=lambda prompt: draw(seed, "prompt", prompt)):
        mine, theirs = first.by_prompt[prompt], other.by_prompt.get(prompt)
        if theirs is None:
            reasons["prompt not answered"] += 1
        elif mine.text.strip() == theirs.text.strip():
            reasons["same answer"] += 1
        else:
            texts = {first.model: mine.text, other.model: theirs.text}
            # The whole prompt: its ends stand in the judge's files and in the models' too.
            items.append(_item(mine.instruction, texts, dataset=mine.dataset))
    assert len(items) + reasons.total() == len(first.by_prompt)
    return items, reasons


def _item(instruction: str, texts: dict[str, str], **more: str) -> Item:
    return Item(draw(instruction, *texts, *texts.values())[:16], instruction, texts, **more)


# --- single pairs by score ------------------------------------------------------------------------


def label_items(run_folder: str, iteration: int | None, number: int, seed: int) -> Drawn:
    """Pairs that a rater of the run has scored, equally many of every grade as far as there are.

    A plain sample would have few good ones, of which precision is measured.

    Args:
        iteration: None takes the last one.

    Raises:
        UserError: no such rating, or none of its pairs has a score.
    """
    folder = _rated(run_folder, iteration)
    strata, unscored = _strata(folder)
    if not strata:
        raise UserError(f"no pair in {folder} has a score: rate again, or give another --iteration")
    pool = {stratum: len(ids) for stratum, ids in sorted(strata.items())}
    chosen = _equal_shares(strata, number, seed)
    items = sorted(_with_texts(folder, chosen), key=lambda item: item.item_id)
    not_drawn = sum(pool.values()) - len(items)
    left_out = Counter({"no score": unscored, "not drawn": not_drawn})
    assert len(items) == len(chosen)
    return Drawn(items, +left_out, pool)


def _rated(run_folder: str, iteration: int | None) -> str:
    names = storage.names(run_folder)
    numbers = [int(n.removeprefix(ITERATION)) for n in names if n.removeprefix(ITERATION).isdigit()]
    have = [n for n in sorted(numbers) if storage.exists(_rows(run_folder, n))]
    if not have or (iteration is not None and iteration not in have):
        where = _rows(run_folder, iteration or 1)
        raise UserError(
            f"no rated pairs in {where}: rated iterations are {have or '(none)'}; give one of them "
            "as --iteration, or run the rating first"
        )
    return _rows(run_folder, have[-1] if iteration is None else iteration)


def _rows(run_folder: str, iteration: int) -> str:
    return storage.join(run_folder, f"{ITERATION}{iteration}", RATED, "rows")


def _strata(folder: str) -> tuple[dict[str, list[str]], int]:
    """Candidate ids by their score's nearest grade, and the number of pairs without a score."""
    strata: dict[str, list[str]] = defaultdict(list)
    unscored = 0
    for batch in tables.scan(folder, ["candidate_id", "score"]):
        for row in batch.to_pylist():
            if row["score"] is None:
                unscored += 1
            else:
                strata[f"{int(row['score'] + 0.5)}"].append(row["candidate_id"])
    return strata, unscored


def _equal_shares(strata: Mapping[str, Sequence[str]], number: int, seed: int) -> dict[str, str]:
    """The strata of the drawn candidates: one of each stratum in turn, until none is left."""
    queues = {
        stratum: sorted(ids, key=lambda name: draw(seed, "candidate", name), reverse=True)
        for stratum, ids in sorted(strata.items())
    }
    number = min(number, sum(len(queue) for queue in queues.values()))
    chosen: dict[str, str] = {}
    for stratum, queue in cycle(queues.items()):
        if len(chosen) == number:
            break
        if queue:
            chosen[queue.pop()] = stratum
    return chosen


def _with_texts(folder: str, chosen: Mapping[str, str]) -> Iterator[Item]:
    names = list(chosen)
    columns = ["candidate_id", "instruction", "response"]
    for batch in tables.scan(folder, columns):
        hits = batch.filter(pc.is_in(batch["candidate_id"], value_set=pa.array(names)))
        for row in hits.to_pylist():
            name = row["candidate_id"]
            yield Item(
                name, row["instruction"], {RESPONSE: row["response"]}, candidate_id=name,
                stratum=chosen[name],
            )  # fmt: skip


# --- screening items ------------------------------------------------------------------------------


def screening_items(file: str | None, kind: Kind) -> list[Item]:
    """Items with known answers: those of a file, or the ones that the package brings.

    A pair of answers is one item. For labels each of its answers is an item.

    Raises:
        UserError: the file is no list of objects with instruction, better and worse.
    """
    wanted = 'give --screening a JSON list of {"instruction", "better", "worse"}'
    if file is None:
        text = (resources.files(__package__) / "page" / "screening.json").read_text("utf-8")
    else:
        text = storage.read_text(storage.absolute(file), "screening file", "--screening")
    try:
        entries = json.loads(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise UserError(f"screening file {file} is no JSON ({error}): {wanted}") from error
    if not isinstance(entries, list) or not all(_is_screening(entry) for entry in entries):
        raise UserError(f"screening file {file} has another form: {wanted}")
    items = [item for entry in entries for item in _screening(entry, kind)]
    return list({item.item_id: item for item in items}.values())


def _is_screening(entry: Any) -> bool:
    keys = ("instruction", BETTER, WORSE)
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys)


def _screening(entry: Mapping[str, str], kind: Kind) -> Iterator[Item]:
    if kind is Kind.PAIR:
        texts = {BETTER: entry[BETTER], WORSE: entry[WORSE]}
        yield _item(entry["instruction"], texts, known=BETTER)
        return
    for name, label in ((BETTER, "good"), (WORSE, "bad")):
        yield _item(entry["instruction"], {RESPONSE: entry[name]}, known=label)
