"""The report's section on benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback_ray.figures.benchmark_types import (
    PAPER_CROWS_PAIRS,
    BenchmarkFigures,
    ModelFigure,
    TaskFigure,
)
from humpback_ray.report.document import Block, Paragraph, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import NONE, count

# Metrics that are shares of the questions; any other is shown as the harness gives it.
SHARES = ("acc", "acc_norm", "exact_match", "pct_stereotype")
PAPER_COLUMNS = ("paper, LLaMA 65B", "paper, Humpback 65B")


def benchmarks(found: Sequence[BenchmarkFigures]) -> Iterator[Block]:
    """Tasks by models with the paper's beside them, CrowS-Pairs apart, then parts of groups."""
    for figures in found:
        if len(set(figures.harnesses.values())) > 1:
            named = ", ".join(f"{name} by {cut(by)}" for name, by in figures.harnesses.items())
            yield Paragraph(
                "The models were not asked by one harness, so part of a difference may be its: "
                f"{named}.",
                is_warning=True,
            )
        yield from _of_run(figures)


def _of_run(figures: BenchmarkFigures) -> Iterator[Block]:
    crows = [task for task in figures.tasks if task.is_crows_pairs]
    others = [task for task in figures.tasks if not task.is_crows_pairs]
    top = [task for task in others if not task.group]
    parts = [task for task in others if task.group]
    if top:
        yield Table(
            f"Zero-shot benchmarks by {cut(figures.harnesses[figures.last])}",
            ("task", "metric", "questions", *_columns(figures), *PAPER_COLUMNS),
            [_row(task, figures, with_paper=True) for task in top],
            frozenset({0, 1}),
            note="Shares in percent, ± one standard error. The difference is of the same "
            "questions, with its 95% interval. The paper's models are larger and were asked in "
            f"the paper's own way, so compare {figures.last} with this run's {figures.base}. "
            "↓ marks metrics where lower is better.",
        )
    if crows:
        yield from _crows_pairs(figures, crows)
    if parts:
        yield Table(
            "Parts of the benchmarks",
            ("task", "metric", "questions", *_columns(figures)),
            [_row(task, figures) for task in parts],
            frozenset({0, 1}),
            is_folded=True,
        )


def _crows_pairs(figures: BenchmarkFigures, tasks: Sequence[TaskFigure]) -> Iterator[Block]:
    base, humpback = PAPER_CROWS_PAIRS
    yield Table(
        "CrowS-Pairs: preference for stereotypes, by category",
        ("task", "metric", "pairs", *_columns(figures)),
        [_row(task, figures) for task in tasks],
        frozenset({0, 1}),
        note="pct_stereotype is the share of pairs whose stereotyping sentence the model finds "
        "more likely than its counterpart. 50% is no preference, and lower is better down to it. "
        "likelihood_diff is the mean distance of the two log-likelihoods, in nats.",
    )
    yield Paragraph(
        f"The paper gives {base} for LLaMA 65B and {humpback} for Humpback 65B on CrowS-Pairs: an "
        "accuracy of detecting biased statements, where higher is better. Here lower is better, so "
        "the paper's figures must not be compared with these and stand in no column."
    )


def _columns(figures: BenchmarkFigures) -> tuple[str, ...]:
    models = tuple(figures.harnesses)
    if figures.base == figures.last:
        return models
    return (*models, f"{figures.last} − {figures.base}", "interval")


def _row(task: TaskFigure, figures: BenchmarkFigures, *, with_paper: bool = False) -> Row:
    is_share = task.metric.partition(",")[0] in SHARES
    mark = " ↓" if task.higher_is_better is False else ""
    cells = [
        cut(task.task, 60), f"{cut(task.metric, 40)}{mark}", count(task.n),
        *(_value(model, is_share) for model in task.models),
    ]  # fmt: skip
    if figures.base != figures.last:
        cells += _change(task, is_share)
    if with_paper:
        cells += [f"{value:.1f}" for value in task.paper] if task.paper else [NONE, NONE]
    return cells


def _value(model: ModelFigure, is_share: bool) -> str:
    if model.value is None:
        return NONE
    error = "" if model.stderr is None else f" ± {_number(model.stderr, is_share)}"
    return f"{_number(model.value, is_share)}{error}"


def _change(task: TaskFigure, is_share: bool) -> tuple[str, str]:
    change = task.change
    if change is None:
        return NONE, NONE
    bounds = NONE
    if change.low is not None and change.high is not None:
        bounds = f"{_signed(change.low, is_share)} to {_signed(change.high, is_share)}"
    return _signed(change.value, is_share), bounds


def _number(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f}" if is_share else f"{value:.2f}"


def _signed(value: float, is_share: bool) -> str:
    return ("+" if value > 0 else "") + _number(value, is_share)
