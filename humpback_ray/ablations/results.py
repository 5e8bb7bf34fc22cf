"""The results of ablations: what each arm was trained on, its held-out loss, its win rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from humpback_ray import storage
from humpback_ray.ablations.plan import AblationPlan, PlannedArm
from humpback_ray.errors import UserError
from humpback_ray.evaluation import scaling
from humpback_ray.evaluation.estimates import Estimate, weighted_mean
from humpback_ray.evaluation.scaling import PAPER_ALPHAS, ScalingFit
from humpback_ray.execution.stage import ABLATIONS, RECORD, Stage, StageRecord, read_record
from humpback_ray.figures.models import HeldOutLosses, held_out_losses, judge_figures
from humpback_ray.figures.record_figures import readable_figures
from humpback_ray.report.foreign_text import shown
from humpback_ray.rows import Origin

NAME = "ablations"  # of the files of results
COLUMNS = (
    "arm", "seed pairs", "web pairs", "held-out loss", "change from the run", "win rate", "judged",
)  # fmt: skip


@dataclass(frozen=True)
class GameResult:
    """An arm's model against the common opponent, in percent."""

    opponent: str
    win_rate: float | None  # None: too few prompts are judged
    low: float | None
    high: float | None
    num_prompts: int
    num_judged: int
    failed_controls: tuple[str, ...]


@dataclass(frozen=True)
class ArmResult:
    """One arm's results."""

    name: str
    overrides: tuple[str, ...]
    model: str  # as its evaluation names it
    num_seed: int  # examples that the model is trained on
    num_web: int
    loss: Estimate | None  # nats per token of held-out answers
    change: Estimate | None  # from the run's model on the same answers; None for the run itself
    game: GameResult | None
    is_size: bool
    fingerprints: Mapping[str, str]  # of the stages behind the result, by path


@dataclass(frozen=True)
class AblationResults:
    """All arms, and the fit over the arms of several sizes."""

    run: str
    recipe: str
    arms: tuple[ArmResult, ...]
    left_out: tuple[str, ...]
    fit: ScalingFit | None
    fit_note: str  # the reason where there is no fit; empty without arms of several sizes
    paper_alphas: Mapping[str, float] = field(default_factory=lambda: PAPER_ALPHAS)


def read_results(plan: AblationPlan) -> AblationResults:
    """Read the results of a plan whose stages are done.

    Raises:
        UserError: a record or rows are damaged.
    """
    losses = {
        arm.arm.name: held_out_losses(storage.join(plan.run_folder, arm.evaluation.path, "rows"))
        for arm in plan.arms
    }
    of_run = losses[plan.arms[0].arm.name]
    arms = [
        _result(arm, plan.run_folder, losses[arm.arm.name], of_run if number else None)
        for number, arm in enumerate(plan.arms)
    ]
    fit, note = fit_sizes(arms)
    return AblationResults(
        storage.name(plan.run_folder), plan.recipe_name, tuple(arms), plan.left_out, fit, note
    )


def _result(
    planned: PlannedArm, run_folder: str, losses: HeldOutLosses, of_run: HeldOutLosses | None
) -> ArmResult:
    examples = _record(planned.examples, run_folder).outcomes
    return ArmResult(
        name=planned.arm.name,
        overrides=planned.arm.overrides,
        model=planned.evaluation.name,
        num_seed=examples.get(Origin.SEED.value, 0),
        num_web=examples.get(Origin.WEB.value, 0),
        loss=_mean(list(losses.values())),
        change=None if of_run is None else _change(losses, of_run),
        game=_game(planned, run_folder),
        is_size=planned.arm.size,
        fingerprints={stage.path: stage.fingerprint for stage in planned.stages},
    )


def _record(stage: Any, run_folder: str) -> StageRecord:
    assert isinstance(stage, Stage)
    record = read_record(storage.join(run_folder, stage.path))
    assert record is not None, stage.path
    return record


def _mean(losses: Sequence[tuple[float, int]]) -> Estimate | None:
    return weighted_mean([loss for loss, _ in losses], [number for _, number in losses])


def _change(losses: HeldOutLosses, of_run: HeldOutLosses) -> Estimate | None:
    shared = [name for name in losses if name in of_run]
    return _mean([(losses[name][0] - of_run[name][0], losses[name][1]) for name in shared])


def _game(planned: PlannedArm, run_folder: str) -> GameResult | None:
    if planned.judgement is None:
        return None
    record, path = _record(planned.judgement, run_folder), planned.judgement.path
    figures, damage = readable_figures(planned.judgement.kind, record.figures)
    judge = judge_figures(path, figures)
    game = next((g for g in judge.games if g.model == planned.evaluation.name), None)
    if damage or game is None:
        problem = damage or f"it has no game of {planned.evaluation.name}"
        raise UserError(
            f"{storage.join(run_folder, path, RECORD)} is damaged ({problem}): put a copy back, or "
            "delete the folder, and give the same command again"
        )
    return GameResult(
        game.opponent, game.win_rate, game.low, game.high, game.num_prompts, game.num_judged,
        tuple(judge.failed_controls),
    )  # fmt: skip


# --- the fit --------------------------------------------------------------------------------------


def fit_sizes(arms: Sequence[ArmResult]) -> tuple[ScalingFit | None, str]:
    """The fit of win rate and number of examples over the arms of several sizes, or the reason."""
    points = [arm for arm in arms if arm.is_size]
    if not points:
        return None, ""
    if not any(arm.game for arm in points):
        return None, "no judge is set (settings.evaluation.judge), so no arm has a win rate"
    if any(arm.game and arm.game.failed_controls for arm in points):
        return None, "the judge fails a control, so its win rates say nothing about quality"
    rated = [(arm.num_seed + arm.num_web, arm.game.win_rate) for arm in points
             if arm.game and arm.game.win_rate is not None]  # fmt: skip
    fit = scaling.fit([size for size, _ in rated], [rate for _, rate in rated])
    return fit, "" if fit else "fewer than two sizes have a win rate"


def fit_line(fit: ScalingFit) -> str:
    """The fit in one sentence."""
    interval = (
        "no interval from two points"
        if fit.low is None or fit.high is None
        else f"95% interval {fit.low:.2f} to {fit.high:.2f}"
    )
    return (
        f"w = α ln N + C over {fit.num_points} sizes: α = {fit.alpha:.2f} ({interval}), "
        f"C = {fit.constant:.1f}; N counts seed and web pairs"
    )


def paper_line(alphas: Mapping[str, float]) -> str:
    """The paper's α of each data set, in one sentence."""
    named = ", ".join(f"{name} {alpha:.2f}" for name, alpha in alphas.items())
    return f"α in the paper, at 7B against text-davinci-003: {named}"


# --- tables and files -----------------------------------------------------------------------------


def table_rows(results: AblationResults) -> list[tuple[str, ...]]:
    """The cells below `COLUMNS`, one row for each arm."""
    return [
        (
            arm.name,
            f"{arm.num_seed:,}",
            f"{arm.num_web:,}",
            _shown(arm.loss, "{:.3f}"),
            _shown(arm.change, "{:+.3f}"),
            _win_rate(arm.game),
            f"{arm.game.num_judged:,}/{arm.game.num_prompts:,}" if arm.game else "-",
        )
        for arm in results.arms
    ]


def notes(results: AblationResults) -> list[str]:
    """The lines below the table: opponent, controls, the fit beside the paper's, what is left out.

    Names that files bring along have no controls in them.
    """
    games = [arm.game for arm in results.arms if arm.game]
    lines = [f"Win rates are in % against {shown(game.opponent)}." for game in games[:1]]
    if failed := sorted({name for game in games for name in game.failed_controls}):
        lines.append(
            f"The judge fails a control ({', '.join(failed)}): its win rates say nothing about "
            "quality."
        )
    if results.fit:
        lines += [fit_line(results.fit), paper_line(results.paper_alphas)]
    elif results.fit_note:
        lines.append(f"α is not fitted: {results.fit_note}")
    return lines + [f"left out: {line}" for line in results.left_out]


def _shown(estimate: Estimate | None, number: str) -> str:
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return number.format(estimate.value)
    low, high = number.format(estimate.low), number.format(estimate.high)
    return f"{number.format(estimate.value)} ({low} to {high})"


def _win_rate(game: GameResult | None) -> str:
    if game is None or game.win_rate is None:
        return "-"
    return f"{game.win_rate:.1f} ({game.low:.1f} to {game.high:.1f})"


def write_results(results: AblationResults, run_folder: str) -> list[str]:
    """Write ablations.json and ablations.md; returns their paths."""
    paths = [storage.join(run_folder, ABLATIONS, f"{NAME}.{kind}") for kind in ("json", "md")]
    storage.write_json(paths[0], asdict(results))
    storage.write_text(paths[1], markdown(results))
    return paths


def markdown(results: AblationResults) -> str:
    """The table and the lines below it, and each arm's settings as `--set` takes them."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *table_rows(results)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    below = "".join(f"- {line}\n" for line in map(_as_markdown, notes(results)))
    settings = "".join(
        f"- {arm.name}: {', '.join(f'`{each}`' for each in arm.overrides) or 'as the run'}\n"
        for arm in results.arms
    )
    title = _as_markdown(results.run)
    return f"# Ablations of {title}\n\n{table}\n\n{below}\n## Settings\n\n{settings}"


def _as_markdown(text: str) -> str:
    """A line whose marks Markdown shows as they are."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|#!&" else c for c in text)
    return " ".join(escaped.split())
