"""The rater against labels of people."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.evaluation.rater_quality import Threshold
from humpback_ray.figures.types import RunFigures
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Paragraph, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import INTERVALS, count, fixed, interval, percent


def raters(figures: RunFigures) -> Iterator[Block]:
    """Precision and recall at each threshold, and calibration, for each iteration."""
    for rater in figures.raters:
        quality, t = rater.quality, rater.iteration
        unknown = ", ".join(cut(name, 40) for name in quality.unknown)
        yield Paragraph(
            f"Iteration {t}: {count(quality.num_labels)} labels, {count(quality.num_good)} of them "
            f"good; {count(quality.num_unknown)} of ids that {rater.stage} lacks"
            + (f" ({unknown})" if unknown else "")
            + f"; {count(quality.num_unscored)} of pairs without a score; "
            f"{count(quality.num_contradicting)} ids with contradicting labels left out. If the "
            "labels were drawn by score, the figures are those of the drawn pairs and not of all."
        )
        yield Table(
            f"The rater of iteration {t} as a classifier of good pairs",
            ("good from score", "called good", "precision", "interval", "recall", "interval"),
            [_threshold(cut_, rater.selected_from) for cut_ in quality.thresholds],
            note="The paper's raters at its threshold, precision and recall: M_0 0.44 and 0.09, "
            f"M_1 0.52 and 0.44, GPT-4 0.88 and 0.92, of 250 labels. {INTERVALS}",
        )
        yield Table(
            f"Calibration of the scores of iteration {t}",
            ("scores", "mean score", "labels", "good", "interval"),
            [
                (
                    f"{b.lowest:.2f} to {b.highest:.2f}", fixed(b.mean_score), count(b.good.n),
                    percent(b.good.value), interval(b.good, 1, is_share=True),
                )
                for b in quality.calibration
            ],
        )  # fmt: skip
        if len(quality.calibration) > 1:
            yield charts.intervals(
                f"Share of good pairs by score, iteration {t}",
                "; ".join(f"{b.mean_score:.2f}: {b.good.value:.0%}" for b in quality.calibration),
                "share of good pairs",
                [
                    charts.Interval(f"{b.mean_score:.2f}", b.good.value, b.good.low, b.good.high)
                    for b in quality.calibration
                ],
                domain=(0, 1),
            )


def _threshold(at: Threshold, selected_from: float | None) -> Row:
    precision, recall = at.precision, at.recall
    name = f"{at.threshold:.2f}" + (" (selection)" if at.threshold == selected_from else "")
    return (
        name, count(at.num_called_good),
        percent(precision.value if precision else None), interval(precision, 1, is_share=True),
        percent(recall.value if recall else None), interval(recall, 1, is_share=True),
    )  # fmt: skip
