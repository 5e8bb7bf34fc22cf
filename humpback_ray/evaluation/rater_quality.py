"""The rater against labels of people: precision and recall of "good", and calibration.

The paper compares its raters with 250 labels of experts, of which 20% are good (arXiv 2308.06259,
section 3.5).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.estimates import Estimate, share_of

THRESHOLDS = tuple(half / 2 for half in range(2, 11))  # 1, 1.5, ... 5
NUM_BINS = 5  # of the calibration, each with as many labels
MIN_LABELS_PER_BIN = 10
NUM_NAMED = 10  # unknown ids that a report names
OPTION = "--labels"


class Label(StrEnum):
    """A person's verdict on a pair of instruction and response."""

    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True)
class Labels:
    """The labels of a file."""

    by_id: Mapping[str, Label]
    num_contradicting: int  # ids with both labels, which are left out


@dataclass(frozen=True)
class Threshold:
    """The rater as a classifier: it calls a pair good from this score on."""

    threshold: float
    num_called_good: int
    precision: Estimate | None  # None: no labelled pair has such a score
    recall: Estimate | None  # None: no labelled pair is good


@dataclass(frozen=True)
class CalibrationBin:
    """Labelled pairs with neighbouring scores."""

    lowest: float
    highest: float
    mean_score: float
    good: Estimate  # share of good ones


@dataclass(frozen=True)
class RaterQuality:
    """One rater against the labels."""

    num_labels: int
    num_good: int
    num_contradicting: int
    num_unknown: int  # labels of ids that the rater has no row of
    unknown: list[str]  # the first of them
    num_unscored: int  # labelled pairs without a score, which no threshold calls good
    thresholds: list[Threshold]
    calibration: list[CalibrationBin]


def read_labels(path: str) -> Labels:
    """The labels of a file of JSON lines: `{"candidate_id": ..., "label": "good" | "bad"}`.

    A repeated label counts once.

    Raises:
        UserError: no such file, a line that is no label, or no label at all.
    """
    text = storage.read_text(path, "file of labels", OPTION).removeprefix("\ufeff")
    found: dict[str, set[Label]] = {}
    for candidate_id, label in _entries(path, text):
        found.setdefault(candidate_id, set()).add(label)
    if not found:
        raise UserError(f"the file of labels {path} is empty: give {OPTION} {_wanted()}")
    by_id = {name: next(iter(labels)) for name, labels in found.items() if len(labels) == 1}
    return Labels(by_id, len(found) - len(by_id))


def _entries(path: str, text: str) -> Iterator[tuple[str, Label]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            yield str(entry["candidate_id"]), Label(entry["label"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the file of labels {path}, line {number}: {line.strip()[:80]!r} is no label; "
                f"give {OPTION} {_wanted()}"
            ) from error


def _wanted() -> str:
    return 'a file with a line {"candidate_id": "...", "label": "good" or "bad"} for each pair'


def measure(
    scores: Iterable[tuple[str, float | None]], labels: Labels, selected_from: float | None = None
) -> RaterQuality:
    """A rater's precision and recall at each threshold, and its calibration.

    Args:
        scores: (candidate_id, score) of every rated pair; None for a pair without a score.
        labels: of some of them.
        selected_from: the lowest score of the pairs that a run has selected: a threshold too.
    """
    found = {name: score for name, score in scores if name in labels.by_id}
    unknown = [name for name in labels.by_id if name not in found]
    scored = [(score, labels.by_id[name] is Label.GOOD)
              for name, score in found.items() if score is not None]  # fmt: skip
    num_good = sum(labels.by_id[name] is Label.GOOD for name in found)
    cuts = {*THRESHOLDS, *([] if selected_from is None else [selected_from])}
    return RaterQuality(
        len(labels.by_id),
        num_good,
        labels.num_contradicting,
        len(unknown),
        unknown[:NUM_NAMED],
        len(found) - len(scored),
        [_at(cut, scored, num_good) for cut in sorted(cuts)],
        _calibration(sorted(scored)),
    )


def _at(threshold: float, scored: list[tuple[float, bool]], num_good: int) -> Threshold:
    called = [is_good for score, is_good in scored if score >= threshold]
    hits = sum(called)
    return Threshold(threshold, len(called), share_of(hits, len(called)), share_of(hits, num_good))


def _calibration(scored: list[tuple[float, bool]]) -> list[CalibrationBin]:
    """Bins of equally many pairs, out of pairs in the order of their scores."""
    num_bins = max(min(NUM_BINS, len(scored) // MIN_LABELS_PER_BIN), 1)
    edges = [len(scored) * edge // num_bins for edge in range(num_bins + 1)]
    bins = [scored[a:b] for a, b in pairwise(edges) if a < b]
    return [_bin([score for score, _ in part], [good for _, good in part]) for part in bins]


def _bin(scores: list[float], are_good: list[bool]) -> CalibrationBin:
    good: Any = share_of(sum(are_good), len(are_good))
    return CalibrationBin(scores[0], scores[-1], sum(scores) / len(scores), good)
