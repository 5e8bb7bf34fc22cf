"""A judge's games with their controls, and the held-out losses."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import Game, JudgeFigures, RunFigures
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Cell, Paragraph, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.sections.judge_tables import differences, judged, length_controlled, pair
from humpback_ray.report.wording import INTERVALS, bounds, count, fixed, interval, percent


def models(figures: RunFigures) -> Iterator[Block]:
    """A judge's games and controls, then the held-out losses."""
    for judge in figures.judges:
        yield from _judge(judge)
    if not figures.losses:
        return
    rows: list[Row] = [
        (
            entry.model, fixed(entry.loss.value, 3), interval(entry.loss), count(entry.loss.n),
            fixed(entry.change.value, 3) if entry.change else "–", interval(entry.change),
            fixed(entry.mean_answer_characters, 0),
        )
        for entry in figures.losses
    ]  # fmt: skip
    yield Table(
        "Loss on held-out seed answers",
        ("model", "nats per token", "interval", "pairs", "change", "interval of the change",
         "characters per answer"),
        rows,
        note="The change is against the model above, on the same pairs; below zero is better. "
        f"{INTERVALS}",
    )  # fmt: skip
    yield charts.intervals(
        "Held-out loss by model",
        "; ".join(f"{e.model} {e.loss.value:.3f} nats" for e in figures.losses),
        "nats per token",
        [charts.Interval(e.model, e.loss.value, e.loss.low, e.loss.high) for e in figures.losses],
    )


def _judge(judge: JudgeFigures) -> Iterator[Block]:
    name = cut(judge.judge)
    if judge.failed_controls:
        failed = ", ".join(judge.failed_controls)
        yield Paragraph(
            f"The judge {name} fails a control: {failed}. No win rate below is a sign of quality.",
            is_warning=True,
        )
    yield Table(
        f"Win rates by {name}",
        ("model : opponent", "win rate", "interval", "standard error", "judged",
         "orders disagree"),
        [_game(game) for game in judge.games],
        note=f"Verdicts by {cut(judge.verdicts_by)}. Win rates in percent; 50 shows no difference. "
        f"{INTERVALS} No score where under 99% of the prompts are judged.",
    )  # fmt: skip
    scored = [game for game in judge.games if game.win_rate is not None]
    if scored:
        yield charts.intervals(
            "Win rates with their intervals",
            "; ".join(f"{pair(g)} {g.win_rate:.1f}%" for g in scored),
            "win rate in %",
            [charts.Interval(pair(g), g.win_rate or 0.0, g.low, g.high) for g in scored],
            reference=50,
            domain=(0, 100),
        )
    yield from length_controlled(judge)
    yield from differences(judge)
    if judge.controls:
        yield Table(
            "Controls of the judge",
            ("control", "win rate", "interval", "judged", "verdict", "rule"),
            [
                (
                    cut(c.name), fixed(c.win_rate, 1), bounds(c.low, c.high),
                    judged(c),
                    Cell("passed" if c.passed else "failed", emphasis="good" if c.passed else
                         "bad"),
                    cut(c.rule),
                )
                for c in judge.controls
            ],
            frozenset({0, 4, 5}),
        )  # fmt: skip
    if judge.strengths:
        yield Table(
            "Strengths over all games (Bradley-Terry)",
            ("model", "strength", "interval"),
            [(cut(s.model), fixed(s.strength), bounds(s.low, s.high, 2)) for s in judge.strengths],
            note="The base is 0; a difference of 1 means odds of e to 1. Of the games above that "
            "have a win rate.",
        )


def _game(game: Game) -> Row:
    return (
        pair(game), fixed(game.win_rate, 1), bounds(game.low, game.high),
        fixed(game.standard_error, 1), judged(game), percent(game.order_disagreement),
    )  # fmt: skip
