"""People's votes, a judge beside them, and the raters' agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback_ray.evaluation.estimates import Estimate
from humpback_ray.evaluation.people.results import (
    PAPER,
    SCREENING_FLOOR,
    JudgeBesidePeople,
    PairResult,
)
from humpback_ray.figures.types import RunFigures
from humpback_ray.report.document import Block, Paragraph, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import INTERVALS, bounds, count, interval, percent


def people(figures: RunFigures) -> Iterator[Block]:
    """Votes on pairs of answers beside the paper's, a judge beside them, and the agreement."""
    for results in figures.people:
        if results.pairs:
            yield _votes(results.pairs)
        for pair in results.pairs:
            if pair.judge:
                yield Paragraph(_judge_beside(pair, pair.judge), bool(pair.judge.failed_controls))
        if results.labels:
            yield Table(
                "Labels of rated pairs",
                ("score", "in the pool", "good", "bad", "unsure"),
                [
                    (each.stratum, count(each.num_pool), count(each.good), count(each.bad),
                     count(each.unsure))
                    for each in results.labels
                ],
            )  # fmt: skip
        for what, alpha in (("pairs", results.pair_agreement), ("labels", results.label_agreement)):
            if alpha:
                yield Paragraph(
                    f"Krippendorff's alpha of {count(alpha.n)} {what} with two raters or "
                    f"more: {alpha.value:.2f} ({bounds(alpha.low, alpha.high, 2)})."
                )
        failed = [rater.rater for rater in results.raters if rater.failed_screening]
        if failed:
            yield Paragraph(
                f"Raters below {SCREENING_FLOOR:.0%} of right answers to screening items, whose "
                f"votes count here: {', '.join(cut(name, 40) for name in failed)} (humpback votes "
                "--without RATER counts without them).",
                is_warning=True,
            )


def _votes(pairs: Sequence[PairResult]) -> Table:
    rows: list[Row] = [
        (
            cut(f"{pair.first} : {pair.second}", 60), count(pair.num_items),
            count(pair.num_votes),
            *(_with_bounds(share) for share in (pair.win, pair.tie, pair.loss, pair.win_rate)),
        )
        for pair in pairs
    ]  # fmt: skip
    rows += [
        (f"the paper's Humpback 65B : {opponent}", "–", "–", f"{win}%", f"{tie}%", f"{loss}%",
         f"{win + tie / 2:.1f}%")
        for opponent, (win, tie, loss) in PAPER.items()
    ]  # fmt: skip
    return Table(
        "People's votes",
        ("pair", "items", "votes", "win", "tie", "loss", "win rate"),
        rows,
        note="Of the items, for the first model, each with its interval; a tie is half a win. The "
        f"paper gives no intervals. {INTERVALS}",
    )


def _judge_beside(pair: PairResult, judge: JudgeBesidePeople) -> str:
    rate = judge.rate
    agreed = judge.agreement.n if judge.agreement else 0
    corrected = f"none, because {rate.problem}" if rate.problem else _with_bounds(rate.corrected)
    return (
        f"{cut(pair.first, 40)} : {cut(pair.second, 40)}: the judge agrees with people on "
        f"{_share(judge.agreement)} of {count(agreed)} pairs that both decided. Its win rate, of "
        f"the pairs that it decides, is {_with_bounds(rate.raw)}, and corrected for its errors "
        f"{corrected}. It has judged {count(judge.num_judged)} of {count(judge.num_prompts)} "
        f"prompts{_controls(judge)}"
    )


def _controls(judge: JudgeBesidePeople) -> str:
    """What the judge's controls say of its win rate, as the end of a sentence."""
    if judge.failed_controls is None:
        return ", and its controls are not known."
    if not judge.failed_controls:
        return " and passes its controls."
    failed = ", ".join(cut(name, 40) for name in judge.failed_controls)
    return f" and fails a control ({failed}), so its win rate says nothing about quality."


def _share(share: Estimate | None) -> str:
    return percent(share.value if share else None)


def _with_bounds(share: Estimate | None) -> str:
    if share is None or share.low is None:
        return _share(share)
    return f"{_share(share)} ({interval(share, 1, is_share=True)})"
