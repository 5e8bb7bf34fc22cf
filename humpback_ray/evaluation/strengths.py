"""Strengths of models over all games between them (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from humpback_ray.evaluation.bootstrap import (
    NUM_DRAWS,
    Floats,
    Interval,
    quantile_interval,
    resample_weights,
)
from humpback_ray.evaluation.win_rates import (
    LONGEST_STEP,
    MAX_NEWTON_STEPS,
    NEWTON_TOLERANCE,
    sigmoid,
)

# Added to both sides of a game, so that a model that wins every prompt has a finite strength.
HALF_A_WIN = 0.5


@dataclass(frozen=True)
class Strength:
    """A model's Bradley-Terry strength: the logit of its chance against a model of strength 0."""

    model: str
    strength: float
    interval: Interval


def bradley_terry(
    games: Mapping[tuple[str, str], ArrayLike],
    zero: str,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> list[Strength]:
    """The strengths of all models that games connect with the model `zero`, strongest first.

    A tie is half a win for either side. Every game gets half a win for both sides in addition.

    Args:
        games: scores of `prompt_scores` by (model, opponent), over the same prompts.
        zero: the model whose strength is 0.
    """
    tables = {pair: np.asarray(scores, np.float64) for pair, scores in games.items()}
    played = {pair: scores for pair, scores in tables.items() if not np.isnan(scores).all()}
    models = _connected(list(played), zero)
    if len(models) < 2:
        return []
    places = {model: place for place, model in enumerate(models)}
    between = {
        (places[model], places[opponent]): scores
        for (model, opponent), scores in played.items()
        if model in places
    }
    num_prompts = len(next(iter(between.values())))
    whole = _strengths(between, len(models), np.ones((1, num_prompts)))[0]
    weights = resample_weights(num_prompts, num_draws, seed)
    draws = _strengths(between, len(models), weights)
    rows = [
        Strength(model, float(whole[at]), quantile_interval(draws[:, at], num_prompts))
        for model, at in places.items()
    ]
    return sorted(rows, key=lambda row: -row.strength)


def _connected(pairs: Sequence[tuple[str, str]], zero: str) -> list[str]:
    """The models that a chain of games connects with the first one, which comes first."""
    reached = [zero]
    for model in reached:
        for pair in pairs:
            if model in pair:
                reached += [other for other in pair if other not in reached]
    return reached


def _strengths(games: Mapping[tuple[int, int], Floats], num_models: int, weights: Floats) -> Floats:
    """(draws, models) strengths by Newton's method on all draws at once; model 0 has strength 0."""
    wins = np.zeros((len(weights), num_models, num_models))  # [d, i, j]: wins of i over j
    for (i, j), scores in games.items():
        is_judged = ~np.isnan(scores)
        filled = np.where(is_judged, scores, 0.0)
        won = weights @ filled
        wins[:, i, j] += won + HALF_A_WIN
        wins[:, j, i] += weights @ is_judged.astype(np.float64) - won + HALF_A_WIN
    num_games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros((len(weights), num_models))
    for _ in range(MAX_NEWTON_STEPS):
        chances = sigmoid(strengths[:, :, None] - strengths[:, None, :])
        slopes = (wins - num_games * chances).sum(2)[:, 1:]
        between = num_games * chances * (1 - chances)
        curvature = between.sum(2)[:, :, None] * np.eye(num_models) - between
        steps = np.linalg.solve(curvature[:, 1:, 1:], slopes[:, :, None])[:, :, 0]
        strengths[:, 1:] += np.clip(steps, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(steps).max() < NEWTON_TOLERANCE:
            break
    return strengths
