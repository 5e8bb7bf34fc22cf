"""The claims, declared before any world of the table is run, and their tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.proof.significance import ALPHA, Mean, holm, over_seeds

Found = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement, and the figure that is above zero if it is true."""

    name: str
    text: str
    figure: str
    read: Callable[[Found], Mean | None]  # from one run's figures


@dataclass(frozen=True)
class Outcome:
    """A claim's figure and what became of it."""

    claim: Claim
    value: float | None
    standard_error: float | None
    p_corrected: float | None
    smallest_visible: float | None

    @property
    def is_tested(self) -> bool:
        return self.p_corrected is not None

    @property
    def holds(self) -> bool:
        return self.p_corrected is not None and self.p_corrected < ALPHA

    @property
    def result(self) -> str:
        """In the issue's words."""
        if self.value is None or self.standard_error is None or not self.is_tested:
            return "not measured"
        if self.holds:
            return "came out"
        # The other way by more than the same error rate allows.
        is_against = self.value < 0 and abs(self.value) > 1.96 * self.standard_error
        return "did not come out: the contrary" if is_against else "within noise"


def _difference(model: str, other: str, group: str = "all") -> Callable[[Found], Mean | None]:
    def read(found: Found) -> Mean | None:
        row = found["differences"].get(f"{model} - {other}", {}).get(group)
        if row is None:
            return None
        return Mean(row["value"], row["standard_error"], row["n"], row["num_clusters"])

    return read


def _precision(found: Found) -> Mean | None:
    """Precision of A_2 less that of A_1; the error is of two samples of pairs, which overlap."""
    if "A_2" not in found["selected"]:
        return None
    first, second = found["selected"]["A_1"], found["selected"]["A_2"]
    variance = sum(s["precision"] * (1 - s["precision"]) / s["n"] for s in (first, second))
    value = 100 * (second["precision"] - first["precision"])
    return Mean(value, 100 * math.sqrt(variance), first["n"], first["n"])


def _above_base_rate(found: Found) -> Mean | None:
    """Precision of A_1 less the share of good pairs among all."""
    chosen, rate = found["selected"]["A_1"], found["rater"]["M_0"]["base_rate"]
    error = math.sqrt(rate * (1 - rate) / chosen["n"])
    return Mean(100 * (chosen["precision"] - rate), 100 * error, chosen["n"], chosen["n"])


def _last_marks(found: Found) -> Found:
    return found["marks"][list(found["marks"])[-1]]["tags"]


def _tag(phrase: str, tag: str, other: str) -> Callable[[Found], Mean | None]:
    def read(found: Found) -> Mean | None:
        marks = _last_marks(found)
        # Exact probabilities of one model: only worlds differ, so one world has no error.
        return Mean(100 * (marks[tag][phrase] - marks[other][phrase]), math.inf, 200, 1)

    return read


CLAIMS = (
    Claim("seed", "Finetuning on the seed teaches to answer.", "M_0 - base",
          _difference("M_0", "base")),
    Claim("first", "The first iteration helps.", "M_1 - M_0", _difference("M_1", "M_0")),
    Claim("second", "The second iteration helps further.", "M_2 - M_1", _difference("M_2", "M_1")),
    Claim("kinds", "The gain reaches kinds that the seed does not cover.",
          "M_2 - M_0, uncovered", _difference("M_2", "M_0", "uncovered")),
    Claim("curation", "Selected pairs are better than as many random ones.", "M_2 - random",
          _difference("M_2", "random")),
    Claim("headroom", "Perfect selection would be better than a random one.", "oracle - random",
          _difference("oracle", "random")),
    Claim("instructions", "True instructions would be better than M_yx's.",
          "true_instructions - oracle", _difference("true_instructions", "oracle")),
    Claim("rater", "M_0 finds good pairs.", "precision of A_1 - base rate", _above_base_rate),
    Claim("better_rater", "M_1 rates better than M_0.", "precision of A_2 - A_1", _precision),
    Claim("web_tag", "The web tag brings the web's voice.", "P(source | S_w) - P(source | S_a)",
          _tag("source", "S_w", "S_a")),
    Claim("seed_tag", "The seed tag brings the assistant's voice.",
          "P(closing | S_a) - P(closing | S_w)", _tag("closing", "S_a", "S_w")),
    Claim("both_sources", "Seed and web together beat the web alone.", "M_2 - web_only",
          _difference("M_2", "web_only")),
    Claim("more_curated", "More selected data helps.", "M_2 - best_quarter",
          _difference("M_2", "best_quarter")),
    Claim("quality", "The better half beats twice as much data.", "M_2 - best_double",
          _difference("M_2", "best_double")),
    Claim("more_random", "More uncurated data helps (the paper: it does not).",
          "random_double - random", _difference("random_double", "random")),
    Claim("both_tags", "Asked with both tags, the last model answers better than with the seed's.",
          "M_2 - M_2-S_a", _difference("M_2", "M_2-S_a")),
    Claim("tags", "Asked with both tags, it answers better than with none.", "M_2 - M_2-none",
          _difference("M_2", "M_2-none")),
)  # fmt: skip


def judge_claims(runs: Sequence[Found]) -> list[Outcome]:
    """The outcome of each claim over runs of different worlds, corrected for their number.

    A claim that some run does not measure is not tested.
    """
    means = {claim.name: _over_runs(claim, runs) for claim in CLAIMS}
    p = {
        name: mean.p_above_zero
        for name, mean in means.items()
        if mean is not None and math.isfinite(mean.standard_error)
    }
    corrected = holm(p)
    return [_outcome(claim, means[claim.name], corrected.get(claim.name)) for claim in CLAIMS]


def _over_runs(claim: Claim, runs: Sequence[Found]) -> Mean | None:
    each = [claim.read(run) for run in runs]
    known = [mean for mean in each if mean is not None]
    if len(known) < len(runs):
        return None
    return known[0] if len(known) == 1 else over_seeds(known)


def _outcome(claim: Claim, mean: Mean | None, p: float | None) -> Outcome:
    if mean is None:
        return Outcome(claim, None, None, None, None)
    return Outcome(
        claim, mean.value, mean.standard_error, p,
        mean.smallest_visible if math.isfinite(mean.standard_error) else None,
    )  # fmt: skip
