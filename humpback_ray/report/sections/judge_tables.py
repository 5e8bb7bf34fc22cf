"""Tables of a judge: length-controlled win rates, and differences of models."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import Control, Game, JudgeFigures
from humpback_ray.report.document import Block, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import bounds, count, fixed

FORMULA_CHARACTERS = 400  # a formula is longer than a name


def pair(game: Game) -> str:
    """The name of a game."""
    return cut(f"{game.model} : {game.opponent}")


def judged(scored: Game | Control) -> str:
    """The prompts with a verdict, of all of them."""
    return f"{count(scored.num_judged)} of {count(scored.num_prompts)}"


def length_controlled(judge: JudgeFigures) -> Iterator[Block]:
    """Win rates as they would be if both answers were equally long, each formula by its name."""
    scored = [game for game in judge.games if game.length_controlled_win_rate is not None]
    if not scored:
        return
    own = judge.alpaca_eval
    has_own = bool(own and own.win_rates)
    formulas = dict.fromkeys(cut(game.formula, FORMULA_CHARACTERS) for game in scored)
    yield Table(
        "Length-controlled win rates",
        (
            "model : opponent",
            "minimal formula",
            "interval",
            *(["AlpacaEval's own"] * has_own),
            "judged",
        ),
        [_length_controlled(judge, game, has_own) for game in scored],
        note=f"Formula: {', '.join(formulas)}. {_alpaca_eval(judge)}",
    )


def _length_controlled(judge: JudgeFigures, game: Game, has_own: bool) -> Row:
    row = (
        pair(game), fixed(game.length_controlled_win_rate, 1),
        bounds(game.length_controlled_low, game.length_controlled_high),
    )  # fmt: skip
    if not has_own or judge.alpaca_eval is None:
        return (*row, judged(game))
    is_played = game.opponent == judge.reference
    own = judge.alpaca_eval.win_rates.get(game.model) if is_played else None
    return (*row, fixed(own, 1), judged(game))


def _alpaca_eval(judge: JudgeFigures) -> str:
    """A sentence about AlpacaEval's own formula, whose figures are or are not there."""
    own = judge.alpaca_eval
    if own is None:
        return "AlpacaEval's own formula: not computed by the version that judged this run."
    if not own.win_rates:
        name, reason = cut(own.formula), cut(own.reason)
        return f"AlpacaEval's own formula, {name}: not computed, because {reason}."
    return (
        f"AlpacaEval's own: {cut(own.formula)} by alpaca_eval {cut(own.version)}, of games against "
        f"{cut(judge.reference)}. It has no interval, because the error that AlpacaEval states is "
        "none of sampling."
    )


def differences(judge: JudgeFigures) -> Iterator[Block]:
    """The last model's win rate less each other model's, paired by prompt."""
    if judge.differences:
        yield Table(
            "The last model against the others, paired by prompt",
            ("win rate less another's", "points", "interval", "judged for both"),
            [
                (
                    cut(f"{d.model} less {d.other}"), f"{d.difference:+.1f}",
                    f"{d.low:+.1f} to {d.high:+.1f}",
                    f"{count(d.num_prompts)} of {count(judge.num_prompts)}",
                )
                for d in judge.differences
            ],
            note=f"Both win rates are against {cut(judge.reference)}, on the same prompts. An "
            "interval of 95% on one side of 0 shows a difference.",
        )  # fmt: skip
