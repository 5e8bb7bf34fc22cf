"""Is the last model better? One paragraph, from the judge's figures or from the held-out losses."""

from __future__ import annotations

from collections.abc import Sequence

from humpback_ray.figures.run_facts import StageState
from humpback_ray.figures.types import Game, JudgeFigures, ModelLoss, StageFigures
from humpback_ray.stages.judge import Judge


def headline(
    stages: Sequence[StageFigures], judges: Sequence[JudgeFigures], losses: Sequence[ModelLoss]
) -> tuple[str, str]:
    """The answer, and what it rests on: `judge`, `held-out loss` or `nothing`."""
    unreadable = [stage.path for stage in stages if stage.state == StageState.UNREADABLE]
    to_do = [s.path for s in stages if s.num_rows is None and s.path not in unreadable]
    unfinished = f" The run is not finished: {_listed(to_do)} to do." if to_do else ""
    if unreadable:
        unfinished += f" The run is not whole: {_listed(unreadable)} cannot be read."
    if judges and judges[0].games:
        return _by_judge(judges[0], losses) + unfinished, "judge"
    if losses:
        is_lost = bool(unreadable) or any(s.kind == Judge.kind and s.num_rows for s in stages)
        return _by_loss(losses, is_judge_lost=is_lost) + unfinished, "held-out loss"
    return f"No model of this run is evaluated yet, so it compares none.{unfinished}", "nothing"


def _listed(paths: list[str]) -> str:
    shown = ", ".join(paths[:3])
    rest = len(paths) - 3
    return f"{shown} and {rest} more stages" if rest > 0 else shown


def _by_judge(judge: JudgeFigures, losses: Sequence[ModelLoss]) -> str:
    # The run's last model: others may play too, such as a file of published answers.
    players = {game.model for game in judge.games}
    own = [loss.model for loss in losses if loss.model in players]
    last = own[-1] if own else judge.games[0].model
    games = [game for game in judge.games if game.model == last]
    sentences = [_game(game, is_judge_sound=not judge.failed_controls) for game in games]
    if failed := judge.failed_controls:
        sentences.insert(0, (
            f"The judge {judge.judge} fails a control ({', '.join(failed)}), so its win rates say "
            "nothing about quality."
        ))  # fmt: skip
    elif judge.smallest_difference is not None:
        sentences.append(
            f"With {judge.num_prompts:,} prompts, differences below "
            f"{judge.smallest_difference:.1f} points stay unseen."
        )
    return " ".join(sentences)


def _game(game: Game, *, is_judge_sound: bool) -> str:
    pair = f"{game.model} against {game.opponent}"
    if game.win_rate is None:
        return (
            f"{pair}: no score, because only {game.num_judged:,} of {game.num_prompts:,} prompts "
            "are judged (99% are asked for)."
        )
    figures = f"wins {game.win_rate:.1f}% of the games"
    judged = f"{game.num_judged:,} of {game.num_prompts:,} prompts judged"
    if game.low is None or game.high is None:
        return f"{pair}: {game.model} {figures}, {judged}."
    interval = f"(95% interval {game.low:.1f} to {game.high:.1f}, {judged})"
    if not is_judge_sound:
        return f"{pair}: it {figures} {interval}."
    if game.low > 50:
        verdict = f"{game.model} is better than {game.opponent}"
    elif game.high < 50:
        verdict = f"{game.model} is worse than {game.opponent}"
    else:
        verdict = f"{game.model} and {game.opponent} cannot be told apart"
    return f"{verdict}: it {figures} {interval}."


def _by_loss(losses: Sequence[ModelLoss], *, is_judge_lost: bool) -> str:
    last = losses[-1]
    judge = "No judge's figures can be read" if is_judge_lost else "No judge is set"
    sentences = [
        f"{judge}, so this run does not say whose answers are better.",
        f"{last.model}'s loss on held-out seed answers is {last.loss.value:.3f} nats per token.",
    ]
    if last.change is not None:
        sentences.append(_change(last))
    others = [each for each in losses[:-1] if each.model != last.before]
    if others:
        named = ", ".join(f"{each.model} {each.loss.value:.3f}" for each in others)
        sentences.append(f"For comparison: {named}.")
    return " ".join(sentences)


def _change(model: ModelLoss) -> str:
    change = model.change
    assert change is not None
    amount = f"{abs(change.value):.3f} {'lower' if change.value < 0 else 'higher'}"
    if change.low is None or change.high is None:
        return f"That is {amount} than {model.before}'s, on one pair."
    interval = f"95% interval of the change {change.low:+.3f} to {change.high:+.3f}"
    told = "" if change.low > 0 or change.high < 0 else ", which may be chance"
    return f"That is {amount} than {model.before}'s ({interval}, {change.n} pairs){told}."
