"""Games between models: the comparisons that a judge is asked for, and the figures of its verdicts.

Every game is over the same prompts in the same order, so its figures are paired with every other's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humpback_ray.evaluation import win_rates
from humpback_ray.evaluation.bootstrap import Floats
from humpback_ray.evaluation.judging import CONTROLS, VerdictsBy
from humpback_ray.evaluation.strengths import bradley_terry
from humpback_ray.rows import Comparison, Verdict


@dataclass(frozen=True)
class Prompt:
    """A prompt that models have answered."""

    prompt_id: str
    dataset: str
    instruction: str


# A model's answers by prompt id. A prompt without one could not be answered.
Answers = Mapping[str, str]


@dataclass(frozen=True)
class Contestants:
    """The models that play, in the order of training, and who plays whom.

    Args:
        own: the run's models, such as base, M_0, M_1, M_2; the last one plays against all others.
        others: models that the run has not trained, the reference among them if it is one.
        reference: every model plays against this one, and so do the controls.
    """

    own: Sequence[str]
    others: Sequence[str]
    reference: str

    def games(self) -> list[tuple[str, str]]:
        """(model, opponent) of every game, each pair once, the last model's first."""
        last, *earlier = reversed(self.own)
        of_last = [(last, other) for other in (*earlier, *self.others)]
        rest = [name for name in (*earlier, *self.others) if name != self.reference]
        of_reference = [(name, self.reference) for name in rest if last != self.reference]
        return of_last + of_reference


def comparisons(
    contestants: Contestants,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    num_control_prompts: int,
    key: Callable[[str, str, str], str],
) -> Iterator[Comparison]:
    """Every pair of answers of every game and control, in both orders.

    Args:
        answers: by model.
        num_control_prompts: how many prompts the controls answer.
        key: of (instruction, first answer, second answer).
    """
    for model, opponent in contestants.games():
        for prompt in prompts:
            own, theirs = (answers[name].get(prompt.prompt_id) for name in (model, opponent))
            yield from _both_orders(model, opponent, False, prompt, own, theirs, key)
    of_reference = answers[contestants.reference]
    for control in CONTROLS:
        for prompt in control_prompts(prompts, num_control_prompts):
            theirs = of_reference.get(prompt.prompt_id)
            made = None if theirs is None else control.answer(prompt.instruction, theirs)
            yield from _both_orders(
                control.name, contestants.reference, True, prompt, made, theirs, key
            )


def control_prompts(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """A sample of the prompts by the hashes of their texts, so that their order does not matter."""

    def place(prompt: Prompt) -> str:
        return hashlib.sha256(prompt.instruction.encode()).hexdigest()

    return sorted(prompts, key=place)[:number]


def _both_orders(
    model: str,
    opponent: str,
    is_control: bool,
    prompt: Prompt,
    output: str | None,
    opponent_output: str | None,
    key: Callable[[str, str, str], str],
) -> Iterator[Comparison]:
    for is_model_first in (True, False):
        place = "first" if is_model_first else "second"
        pair = (output or "", opponent_output or "")
        yield Comparison(
            verdict_id=f"{model}/{opponent}/{prompt.prompt_id}/{place}",
            key=key(prompt.instruction, *(pair if is_model_first else reversed(pair))),
            model=model,
            opponent=opponent,
            is_control=is_control,
            prompt_id=prompt.prompt_id,
            dataset=prompt.dataset,
            instruction=prompt.instruction,
            output=output,
            opponent_output=opponent_output,
            is_model_first=is_model_first,
        )


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Game:
    """The verdicts on two models' answers, prompt by prompt."""

    model: str
    opponent: str
    is_control: bool
    prompts: tuple[Prompt, ...]
    preferences: Floats  # (prompts, orders) for the model; NaN for no verdict
    outputs: tuple[tuple[str, str], ...]  # of the model and of its opponent

    @property
    def scores(self) -> Floats:
        """(prompts,) the mean of both orders; NaN for a prompt that is not judged."""
        return win_rates.prompt_scores(self.preferences)

    def figures(self, seed: int) -> dict[str, Any]:
        """The game's figures as a record has them."""
        lengths = np.array([[len(text) for text in pair] for pair in self.outputs])
        found = win_rates.game_figures(self.preferences, lengths[:, 0], lengths[:, 1], seed)
        return {"model": self.model, "opponent": self.opponent, **found}


def num_halves(verdicts: Sequence[Verdict]) -> int:
    """The number of prompts of games without exactly one verdict in each order."""
    orders = Counter((v.model, v.opponent, v.prompt_id, v.is_model_first) for v in verdicts)
    prompts = {order[:3] for order in orders}
    return sum(orders[*prompt, True] != 1 or orders[*prompt, False] != 1 for prompt in prompts)


def games_of(verdicts: Sequence[Verdict]) -> list[Game]:
    """The games that verdicts belong to, in the order in which each is met first.

    Raises:
        AssertionError: an order of a prompt is missing or repeated.
    """
    by_game: dict[tuple[str, str], dict[str, dict[bool, Verdict]]] = {}
    for verdict in verdicts:
        prompts = by_game.setdefault((verdict.model, verdict.opponent), {})
        orders = prompts.setdefault(verdict.prompt_id, {})
        assert verdict.is_model_first not in orders, f"{verdict.verdict_id} stands twice"
        orders[verdict.is_model_first] = verdict
    return [_game(prompts) for prompts in by_game.values()]


def _game(prompts: Mapping[str, Mapping[bool, Verdict]]) -> Game:
    pairs = [(prompts[name][True], prompts[name][False]) for name in sorted(prompts)]
    some = pairs[0][0]
    return Game(
        some.model,
        some.opponent,
        some.is_control,
        tuple(Prompt(first.prompt_id, first.dataset, first.instruction) for first, _ in pairs),
        np.array([[_number(each.preference) for each in pair] for pair in pairs]),
        tuple((first.output or "", first.opponent_output or "") for first, _ in pairs),
    )


def _number(preference: float | None) -> float:
    return np.nan if preference is None else preference


def figures(
    verdicts: Sequence[Verdict], contestants: Contestants, judge: str, by: VerdictsBy, seed: int
) -> dict[str, Any]:
    """Controls, games and strengths as the record of a judgement has them."""
    games = {(game.model, game.opponent): game for game in games_of(verdicts)}
    of_games = [games[pair].figures(seed) for pair in contestants.games() if pair in games]
    of_controls = [
        _control_figures(control.name, games.get((control.name, contestants.reference)), seed)
        for control in CONTROLS
    ]
    complete = {
        (found["model"], found["opponent"]): games[found["model"], found["opponent"]].scores
        for found in of_games
        if found["win_rate"] is not None
    }
    differences = [
        _difference(complete, contestants.reference, contestants.own[-1], other, seed)
        for other in reversed(contestants.own[:-1])
    ]
    errors = [found["standard_error"] for found in of_games if found["standard_error"]]
    strengths = bradley_terry(complete, contestants.own[0], seed)
    return {
        "judge": judge,
        "verdicts_by": by.value,
        "reference": contestants.reference,
        "num_prompts": max((found["num_prompts"] for found in of_games), default=0),
        "controls": of_controls,
        "games": of_games,
        "differences": [found for found in differences if found],
        "strengths": [
            {
                "model": each.model,
                "strength": each.strength,
                "low": win_rates.finite(each.interval.low),
                "high": win_rates.finite(each.interval.high),
            }
            for each in strengths
        ],
        "smallest_difference": win_rates.smallest_difference(max(errors)) if errors else None,
    }


def _difference(
    scores: Mapping[tuple[str, str], Floats],
    reference: str,
    model: str,
    other: str,
    seed: int,
) -> dict[str, Any] | None:
    """Two models' win rates against the reference compared; None if one of them has none."""
    pair = [scores.get((name, reference)) for name in (model, other)]
    if pair[0] is None or pair[1] is None:
        return None
    found = win_rates.paired_difference(pair[0], pair[1], seed)
    if found is None:
        return None
    return {
        "model": model,
        "other": other,
        "difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "num_prompts": found.num_prompts,
    }


def _control_figures(name: str, game: Game | None, seed: int) -> dict[str, Any]:
    control = next(control for control in CONTROLS if control.name == name)
    rate = win_rates.win_rate(game.scores, seed) if game else None
    scored = rate if rate and rate.is_complete else None
    return {
        "name": name,
        "win_rate": scored.win_rate if scored else None,
        "low": scored.interval.low if scored else None,
        "high": scored.interval.high if scored else None,
        "num_prompts": len(game.prompts) if game else 0,
        "num_judged": rate.num_judged if rate else 0,
        "passed": control.passes(rate),
        "rule": control.rule,
    }
