"""Two runs side by side: the settings that differ on top, then every figure that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from humpback_ray.evaluation.estimates import Estimate, Z
from humpback_ray.figures.models import estimate_of
from humpback_ray.figures.types import Difference, Game, JudgeFigures, Moments, RunFigures
from humpback_ray.report.document import Block, Document, Paragraph, Section, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import setting

LOSS = "Held-out loss, nats per token"


@dataclass(frozen=True)
class SettingChange:
    """A setting that differs; None stands for a run that lacks it."""

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class FigureChange:
    """A figure of both runs; None stands for a run that lacks it."""

    group: str
    name: str
    first: Estimate | None
    second: Estimate | None
    # Prompts of a game, of which `n` are judged; None for what no judge has said.
    first_of: int | None = None
    second_of: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Two runs, and what differs between them."""

    first: RunFigures
    second: RunFigures
    settings: list[SettingChange]
    figures: list[FigureChange]


def compare(first: RunFigures, second: RunFigures) -> Comparison:
    """The differences between two runs."""
    names = dict.fromkeys([*first.settings, *second.settings])
    settings = [
        SettingChange(name, *(setting(run.settings[name]) if name in run.settings else None
                              for run in (first, second)))
        for name in names
        if first.settings.get(name) != second.settings.get(name)
        or (name in first.settings) != (name in second.settings)
    ]  # fmt: skip
    of_first, of_second = dict(_figures(first)), dict(_figures(second))
    keys = dict.fromkeys([*of_first, *of_second])
    asked_first, asked_second = _num_asked(first), _num_asked(second)
    figures = [
        FigureChange(
            *key, of_first.get(key), of_second.get(key), asked_first.get(key), asked_second.get(key)
        )
        for key in keys
    ]
    return Comparison(first, second, settings, figures)


Key = tuple[str, str]  # group and name of a figure


def _key_of_game(judge: JudgeFigures, game: Game) -> Key:
    return f"Win rates by {cut(judge.judge, 40)}, in %", f"{game.model} : {game.opponent}"


def _key_of_difference(judge: JudgeFigures, difference: Difference) -> Key:
    group = f"Differences of win rates by {cut(judge.judge, 40)}, in points"
    return group, f"{difference.model} less {difference.other}"


def _num_asked(run: RunFigures) -> dict[Key, int]:
    """The prompts of each game and of each difference, judged or not."""
    asked: dict[Key, int] = {}
    for judge in run.judges:
        asked |= {_key_of_game(judge, game): game.num_prompts for game in judge.games}
        asked |= {_key_of_difference(judge, d): judge.num_prompts for d in judge.differences}
    return asked


def _figures(run: RunFigures) -> Iterator[tuple[Key, Estimate]]:
    """Every figure that has the same meaning in any run."""
    for judge in run.judges:
        for game in judge.games:
            if (rate := estimate_of(game)) is not None:
                yield _key_of_game(judge, game), rate
        for d in judge.differences:
            estimate = Estimate(d.difference, d.num_prompts, d.low, d.high)
            yield _key_of_difference(judge, d), estimate
        for s in judge.strengths:
            group = f"Strengths by {cut(judge.judge, 40)} (Bradley-Terry)"
            yield (group, s.model), Estimate(s.strength, judge.num_prompts, s.low, s.high)
    for of_run in run.benchmarks:
        for task in of_run.tasks:
            for model in task.models:
                if model.value is not None:
                    group = f"Benchmarks, {cut(task.metric, 40)}"
                    figure = Estimate(model.value, task.n)
                    yield (group, f"{cut(task.task, 60)}, {model.model}"), figure
    for loss in run.losses:
        yield (LOSS, loss.model), loss.loss
    for answered in run.refusals:
        for what, half in (("harmful", answered.harmful), ("harmless", answered.harmless)):
            if half.refused:
                yield (f"Share of {what} prompts refused", answered.model), half.refused
    for step in run.funnel:
        yield (
            ("Kept in the funnel", f"{step.name}, of {step.what}"),
            Estimate(step.num_kept, step.num_in),
        )
    for scores in run.scores:
        yield from _mean("Mean score", f"iteration {scores.iteration}", scores.scores)
    for rater in run.raters:
        for at in rater.quality.thresholds:
            name = f"iteration {rater.iteration}, from {at.threshold:.2f}"
            if at.precision:
                yield ("Precision of the rater", name), at.precision
            if at.recall:
                yield ("Recall of the rater", name), at.recall
    for lengths in run.lengths:
        yield from _mean("Mean characters", f"{lengths.name}, instruction", lengths.instructions)
        yield from _mean("Mean characters", f"{lengths.name}, response", lengths.responses)
    for entry in run.diversity:
        if entry.distinct[2] is not None:
            yield ("Distinct trigrams", entry.name), Estimate(entry.distinct[2], entry.n)
        if entry.near_duplicate_share is not None:
            yield ("Near-duplicates", entry.name), Estimate(entry.near_duplicate_share, entry.n)
    for stage in run.stages:
        if stage.seconds is not None:
            yield ("Seconds", stage.path), Estimate(stage.seconds, stage.num_rows or 0)


def _mean(group: str, name: str, moments: Moments) -> Iterator[tuple[Key, Estimate]]:
    """A mean with the interval that its standard deviation gives."""
    if moments.mean is None:
        return
    if moments.deviation is None:
        yield (group, name), Estimate(moments.mean, moments.n)
        return
    half = Z * moments.deviation / moments.n**0.5
    bounds = (moments.mean - half, moments.mean + half)
    yield (group, name), Estimate(moments.mean, moments.n, *bounds)


def comparison_document(comparison: Comparison) -> Document:
    """The comparison as a report."""
    first, second = _names(comparison)
    sections = [
        Section("settings", "What was set", list(_settings(comparison, first, second))),
        Section("answers", "What each run says", [
            Paragraph(f"{first}: {comparison.first.headline}"),
            Paragraph(f"{second}: {comparison.second.headline}"),
        ]),
        Section("figures", "Figures side by side", [
            *_failed_controls(comparison.first, first),
            *_failed_controls(comparison.second, second),
            *_tables(comparison, first, second),
        ]),
    ]  # fmt: skip
    subtitle = f"{comparison.first.folder} and {comparison.second.folder}"
    headline = f"{_count(comparison)} {_last_models(comparison, first, second)}".strip()
    return Document(f"{first} and {second}", cut(subtitle, 300), headline, sections)


def _names(comparison: Comparison) -> tuple[str, str]:
    """The names of the runs, told apart where they are equal."""
    first, second = cut(comparison.first.run, 60), cut(comparison.second.run, 60)
    return (f"{first} (1)", f"{second} (2)") if first == second else (first, second)


def _count(comparison: Comparison) -> str:
    number = len(comparison.settings)
    if not number:
        return "No setting differs: figures differ by chance, by data or by versions."
    return "One setting differs." if number == 1 else f"{number} settings differ."


def _last_models(comparison: Comparison, first: str, second: str) -> str:
    """The held-out losses of the last models that both runs have; empty without such a model."""
    shared = [c for c in comparison.figures if c.group == LOSS and c.first and c.second]
    if not shared:
        return ""
    last = shared[-1]
    assert last.first is not None
    assert last.second is not None
    return (
        f"{last.name}'s loss on held-out seed answers is {last.first.value:.3f} nats per token in "
        f"{first} and {last.second.value:.3f} in {second}; two runs with other held-out pairs or "
        "tokenizers cannot be compared by it."
    )


def _settings(comparison: Comparison, first: str, second: str) -> Iterator[Block]:
    if not comparison.settings:
        yield Paragraph("Both runs have the same settings.")
    else:
        rows = [(cut(s.name, 80), s.first or "–", s.second or "–") for s in comparison.settings]
        columns = ("setting", first, second)
        yield Table("Settings that differ", columns, rows, frozenset({0, 1, 2}))


def _failed_controls(run: RunFigures, name: str) -> Iterator[Block]:
    for judge in run.judges:
        if judge.failed_controls:
            yield Paragraph(
                f"{name}: the judge {cut(judge.judge)} fails a control "
                f"({', '.join(judge.failed_controls)}). No win rate of it is a sign of quality.",
                is_warning=True,
            )


def _tables(comparison: Comparison, first: str, second: str) -> Iterator[Block]:
    columns = ("figure", first, "n", "interval", second, "n", "interval", "difference")
    for group in dict.fromkeys(change.group for change in comparison.figures):
        changes = [change for change in comparison.figures if change.group == group]
        rows = [
            (
                change.name,
                *_cells(change.first, change.first_of),
                *_cells(change.second, change.second_of),
                _difference(change),
            )
            for change in changes
        ]
        yield Table(group, columns, rows, note="Intervals are of 95%.")


def _cells(estimate: Estimate | None, num_asked: int | None) -> tuple[str, str, str]:
    if estimate is None:
        return "–", "–", "–"
    bounds = "–"
    if estimate.low is not None and estimate.high is not None:
        bounds = f"{number(estimate.low)} to {number(estimate.high)}"
    asked = "" if num_asked is None else f" of {num_asked:,} judged"
    return number(estimate.value), f"{estimate.n:,}{asked}", bounds


def number(value: float) -> str:
    """A figure with about four digits, whatever it counts."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"


def _difference(change: FigureChange) -> str:
    if change.first is None or change.second is None:
        return "–"
    difference = change.second.value - change.first.value
    return ("+" if difference > 0 else "") + number(difference)
