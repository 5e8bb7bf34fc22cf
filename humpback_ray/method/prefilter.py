"""The filter before augmentation: a linear model over a text's hashed n-grams, and its recall.

The model is ridge regression on words, punctuation and line ends, alone and in pairs, so it sees a
text's form as well as its subject. Recall is measured by cross-validation: every score is predicted
by a model that has not learnt from it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from humpback_ray.errors import UserError
from humpback_ray.method.selection import SHOWN_SHARES

NUM_FEATURES = 2**20
TOKENS = r"\w+|[^\w\s]|\n"
PENALTY = 1.0  # of the squared weights, for texts of length 1
NUM_FOLDS = 5
TEXTS_PER_CALL = 2_000  # about 10 MB of n-grams
MIN_SCORED = 50  # pairs; too few for any use, and enough for the folds

CUTS = (0.05, 0.1, 0.2, 0.5)  # shares of the segments for which the recall is measured
MIN_GOOD = 10  # pairs; of fewer a recall says nothing
CONFIDENCE = 0.95  # of every interval

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class LinearModel:
    """Predicts the score of the pair that a text would become.

    Args:
        weights: float32 (NUM_FEATURES + 1,), one for each hashed n-gram and, last, the intercept.
    """

    weights: np.ndarray

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts,), each of which depends on its own text alone."""
        scores = np.empty(len(texts), np.float32)
        for first in range(0, len(texts), TEXTS_PER_CALL):
            matrix = features(texts[first : first + TEXTS_PER_CALL])
            scores[first : first + TEXTS_PER_CALL] = matrix @ self.weights[:-1]
        return scores + self.weights[-1]


def features(texts: Sequence[str]) -> Any:
    """Hashed n-grams of each text, present or not: sparse (texts, NUM_FEATURES), rows of length 1.

    Presence and not frequency, because a word that a text repeats would hide the others.
    """
    return _vectorizer().transform(texts)


@cache
def _vectorizer() -> Any:
    # scikit-learn takes a second to load, and most runs have no filter.
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        n_features=NUM_FEATURES, ngram_range=(1, 2), token_pattern=TOKENS, binary=True,
        alternate_sign=False, norm="l2",
    )  # fmt: skip


def learn(texts: Sequence[str], scores: np.ndarray) -> tuple[LinearModel, np.ndarray]:
    """The model of all pairs, and for each pair the score that a model of the others predicts.

    Args:
        texts: in an order that says nothing about the scores.
        scores: float64 (texts,), of the texts' pairs.

    Raises:
        UserError: too few scores, or scores that are all equal.
    """
    if len(scores) < MIN_SCORED:
        raise UserError(
            f"{len(scores)} pairs of the sample have a score, too few to learn from: raise "
            "settings.prefilter.num_rated, or see why the others have none"
        )
    if np.ptp(scores) == 0:
        raise UserError(
            f"all {len(scores)} pairs of the sample have the score {scores[0]:g}, so there is "
            "nothing to learn: leave out settings.prefilter, or choose another settings.rating"
        )
    matrix = features(texts)
    folds = np.arange(len(scores)) % NUM_FOLDS
    predicted = np.empty(len(scores))
    for fold in range(NUM_FOLDS):
        is_held_out = folds == fold
        weights = _fit(matrix[~is_held_out], scores[~is_held_out])
        predicted[is_held_out] = matrix[is_held_out] @ weights[:-1] + weights[-1]
    return LinearModel(_fit(matrix, scores)), predicted


def _fit(matrix: Any, scores: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=PENALTY, solver="sparse_cg").fit(matrix, scores)
    return np.append(ridge.coef_, ridge.intercept_).astype(np.float32)


# --- recall ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recall:
    """The share of good pairs among the segments that each cut keeps."""

    best: float  # share of all pairs that are good; more where scores are tied
    score: float  # from which on a pair is good
    num_good: int
    of_cut: dict[float, Interval]

    @property
    def line(self) -> str:
        """The recall of every cut, for people."""
        cuts = [
            f"{cut:.0%} keeps {value:.0%} ({low:.0%} to {high:.0%})"
            for cut, (value, low, high) in self.of_cut.items()
        ]
        return f"of the best {self.best:.0%} (score >= {self.score:.4g}) a cut to {', '.join(cuts)}"


@dataclass(frozen=True)
class Measured:
    """The use of a filter, from scores and predictions of the same pairs."""

    num_scored: int
    rank_correlation: Interval
    recalls: list[Recall]
    mean_score: float
    mean_of_cut: dict[float, float]  # mean score of the pairs that a cut keeps

    @property
    def figures(self) -> dict[str, Any]:
        """All of it for a record; shares are in percent, intervals are value, low and high."""
        return {
            "num_scored": self.num_scored,
            "rank_correlation": _rounded(self.rank_correlation),
            "mean_score": round(self.mean_score, 4),
            "mean_score_of_cut": {f"{c:.0%}": round(v, 4) for c, v in self.mean_of_cut.items()},
            "recall": {
                f"{recall.best:.0%}": {
                    "score": round(recall.score, 4),
                    "num_good": recall.num_good,
                    "of_cut": {f"{c:.0%}": _rounded(v) for c, v in recall.of_cut.items()},
                }
                for recall in self.recalls
            },
        }

    @property
    def lines(self) -> list[str]:
        """The figures for people, and a warning where they are those of a random cut."""
        value, low, high = self.rank_correlation
        lines = [
            f"predicted and given scores of {self.num_scored:,} pairs have a rank correlation of "
            f"{value:.2f} ({low:.2f} to {high:.2f})",
            *(recall.line for recall in self.recalls),
        ]
        if low <= 0:
            lines.append(
                "the scores cannot be told from the texts, so the filter cuts at random: raise "
                "settings.prefilter.num_rated, or leave out settings.prefilter"
            )
        return lines


def measure(scores: np.ndarray, predicted: np.ndarray) -> Measured:
    """Compare scores with predictions of models that have not seen them.

    Args:
        scores: float64 (pairs,), in an order that says nothing about them: ties stay in it.
        predicted: float64 (pairs,).
    """
    num = len(scores)
    order = np.argsort(-predicted, kind="stable")
    kept = {cut: order[: max(round(cut * num), 1)] for cut in CUTS}
    ranked = np.sort(scores)[::-1]
    recalls = []
    for best in SHOWN_SHARES:
        score = ranked[max(round(best * num), 1) - 1]
        is_good = scores >= score
        if (num_good := int(is_good.sum())) >= MIN_GOOD:
            of_cut = {
                cut: _share(int(is_good[chosen].sum()), num_good) for cut, chosen in kept.items()
            }
            recalls.append(Recall(best, float(score), num_good, of_cut))
    return Measured(
        num, _rank_correlation(scores, predicted), recalls, float(scores.mean()),
        {cut: float(scores[chosen].mean()) for cut, chosen in kept.items()},
    )  # fmt: skip


def _share(number: int, total: int) -> Interval:
    """A share with Wilson's interval."""
    from scipy import stats

    found = stats.binomtest(number, total).proportion_ci(CONFIDENCE, method="wilson")
    return number / total, float(found.low), float(found.high)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> Interval:
    """Spearman's correlation with the interval of Bonett and Wright (Psychometrika 65, 2000)."""
    from scipy import stats

    if np.ptp(other) == 0:
        return 0.0, -1.0, 1.0
    value = float(stats.spearmanr(one, other).statistic)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + value**2 / 2) / (len(one) - 3))
    middle = math.atanh(min(max(value, -0.9999), 0.9999))
    return value, math.tanh(middle - half), math.tanh(middle + half)


def _rounded(interval: Interval) -> list[float]:
    return [round(value, 4) for value in interval]


# --- keys -----------------------------------------------------------------------------------------


def draw_keys(ids: Sequence[str], random_seed: int) -> np.ndarray:
    """uint64 (ids,): those with the smallest keys are a random sample."""
    digests = (hashlib.sha256(f"{random_seed}/{name}".encode()).digest()[:8] for name in ids)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def rank_keys(scores: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """uint64 (ids,): the highest score has the smallest key, and hashes of ids order equal ones.

    Args:
        scores: float32 (ids,).
    """
    return (_descending(scores) << np.uint64(32)) | (draw_keys(ids, 0) >> np.uint64(32))


def scores_of(keys: np.ndarray) -> np.ndarray:
    """The scores in keys of `rank_keys`, float32."""
    return _of_descending(keys >> np.uint64(32))


_SIGN = np.uint32(2**31)


def _descending(scores: np.ndarray) -> np.ndarray:
    """Numbers below 2^32 in the opposite order of the scores, by the bits of IEEE 754."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return (~ascending).astype(np.uint64)


def _of_descending(numbers: np.ndarray) -> np.ndarray:
    ascending = ~numbers.astype(np.uint32)
    return np.where(ascending & _SIGN, ascending ^ _SIGN, ~ascending).view(np.float32)
