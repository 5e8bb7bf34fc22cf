"""Raters against labels of people."""

from __future__ import annotations

import json
import random

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation.rater_quality import Label, Labels, measure, read_labels

SCORES = [("a", 5.0), ("b", 4.5), ("c", 4.0), ("d", 2.0), ("e", None), ("f", 1.0)]
LABELS = Labels(
    {"a": Label.GOOD, "b": Label.BAD, "c": Label.GOOD, "d": Label.GOOD, "e": Label.GOOD,
     "f": Label.BAD, "gone": Label.GOOD}, 0
)  # fmt: skip


def write(path, *entries) -> str:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return str(path)


def test_precision_and_recall_at_each_threshold():
    quality = measure(SCORES, LABELS)
    at = {cut.threshold: cut for cut in quality.thresholds}
    assert (at[4.5].precision.value, at[4.5].precision.n) == (0.5, 2)
    assert (at[4.5].recall.value, at[4.5].recall.n) == (0.25, 4)
    assert (at[4.0].precision.value, at[4.0].recall.value) == (pytest.approx(2 / 3), 0.5)
    assert at[1.0].recall.value == 0.75  # the pair without a score is called good by none
    assert at[1.0].num_called_good == 5
    assert (quality.num_unknown, quality.unknown, quality.num_unscored) == (1, ["gone"], 1)
    assert (quality.num_labels, quality.num_good) == (7, 4)


def test_threshold_of_the_selection_is_measured_too():
    cuts = [cut.threshold for cut in measure(SCORES, LABELS, 2.17).thresholds]
    assert 2.17 in cuts
    assert cuts == sorted(cuts)


def test_threshold_above_every_score_has_no_precision():
    quality = measure([("a", 2.0)], Labels({"a": Label.BAD}, 0))
    top = quality.thresholds[-1]
    assert (top.precision, top.recall, top.num_called_good) == (None, None, 0)


def test_calibration_rises_with_a_good_rater_and_counts_every_pair():
    draw = random.Random(1)
    scores = [(str(n), 1 + 4 * draw.random()) for n in range(400)]
    labels = {name: Label.GOOD if draw.random() < (score - 1) / 4 else Label.BAD
              for name, score in scores}  # fmt: skip
    bins = measure(scores, Labels(labels, 0)).calibration
    assert [part.good.n for part in bins] == [80] * 5
    shares = [part.good.value for part in bins]
    assert shares == sorted(shares)
    assert all(part.lowest <= part.mean_score <= part.highest for part in bins)


def test_few_labels_make_one_bin():
    assert [part.good.n for part in measure(SCORES, LABELS).calibration] == [5]


def test_labels_count_once_and_contradicting_ones_not_at_all(tmp_path):
    path = write(
        tmp_path / "labels.jsonl",
        {"candidate_id": "a", "label": "good"}, {"candidate_id": "a", "label": "good"},
        {"candidate_id": "b", "label": "good"}, {"candidate_id": "b", "label": "bad"},
    )  # fmt: skip
    labels = read_labels(path)
    assert labels == Labels({"a": Label.GOOD}, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"candidate_id": "a", "label": "good"}\n{"candidate_id": "b"}\n', "line 2: "),
        ('{"candidate_id": "a", "label": "great"}\n', "is no label"),
        ("[]\n", "line 1: '\\[\\]' is no label"),
        ("\x00\n", "is no label"),
    ],
)
def test_file_that_holds_no_labels_is_a_user_error(tmp_path, content, message):
    path = tmp_path / "labels.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_labels(str(path))


def test_missing_file_of_labels_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="set --labels"):
        read_labels(str(tmp_path / "none.jsonl"))
