"""Tables of a finished run: models, selections, games, texts and times."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from humpback_ray import storage
from humpback_ray.execution import clock
from humpback_ray.report.console import visible
from humpback_ray.terminal.output import say, show
from humpback_ray.terminal.safety import refusals_table

# For types alone, because these modules load libraries that `humpback --help` does not wait for.
if TYPE_CHECKING:
    from humpback_ray.figures.types import JudgeFigures
    from humpback_ray.report.run_report import WrittenReport
    from humpback_ray.report.run_summary import ModelResult, RunSummary
    from humpback_ray.report.written import Answer, RankedPair, Written


MAX_SHOWN_TEXT = 420  # characters of a text or an answer: about six lines


def print_summary(name: str, run_folder: str, summary: RunSummary) -> None:
    """Print the results of a finished run, and the commands that come next."""
    show(_models(summary.models))
    show(_self_curation(summary.selections))
    if summary.judgement:
        _print_games(summary.judgement)
    if summary.refusals:
        show(refusals_table(summary.refusals))
    # Short names where the run lies below the working folder, because people type them again.
    here = f"{storage.absolute('.')}/"
    folder = run_folder.removeprefix(here)
    humpback = "humpback" if shutil.which("humpback") else sys.argv[0].removeprefix(here)
    text = (
        f"The run lies in {folder} ({clock.duration(summary.seconds)} of work).\n"
        f"  the last model       {summary.model}  (transformers and vLLM load it)\n"
        f"  answers to prompts   {summary.answers}  (AlpacaEval's format)\n\n"
        f"Next:\n"
        f"  {humpback} look {shlex.quote(f'{folder}/{summary.rated}')} -n 3\n"
        f"  {humpback} look {shlex.quote(f'{folder}/{summary.examples}')} -n 3\n"
        f"  {humpback} report {shlex.quote(folder)}\n"
        f"  {humpback} chat {shlex.quote(folder)}"
    )
    show(Panel(escape(text), title=f"{name}: done"))


def _models(models: Sequence[ModelResult]) -> Table:
    table = Table("model", "trained on", "loss on held-out seed answers", title="Models")
    for model in models:
        loss = "-" if model.held_out_loss is None else f"{model.held_out_loss:.3f} nats"
        table.add_row(model.name, _trained_on(model.training) if model.training else "-", loss)
    return table


def _trained_on(figures: Mapping[str, Any]) -> str:
    passes = figures.get("num_passes")  # which older records do not have
    seen = "" if passes is None else f", {passes:.2f} passes"
    return f"{figures['num_examples']} examples{seen}"


def _self_curation(selections: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("iteration", "pairs with a score", "mean score", "selected", "from score")
    table = Table(*columns, title="Self-curation")
    for iteration, selected in enumerate(selections, start=1):
        table.add_row(
            str(iteration),
            str(selected["num_scored"]),
            f"{selected['mean_score']:.2f}",
            str(selected["num_selected"]),
            f"{selected['lowest_selected_score']:.2f}",
        )
    return table


def _print_games(judgement: JudgeFigures) -> None:
    """Print the win rates, and every control that the judge has failed beside them."""
    by = f"Games, judged by {judgement.judge} ({judgement.verdicts_by})"
    columns = ("model", "against", "win rate", "95% interval", "length-controlled", "judged")
    table = Table(*columns, title=escape(by))
    for game in judgement.games:
        table.add_row(
            escape(game.model),
            escape(game.opponent),
            _percent(game.win_rate),
            f"{_percent(game.low)} to {_percent(game.high)}",
            _percent(game.length_controlled_win_rate),
            f"{game.num_judged} of {game.num_prompts}",
        )
    show(table)
    for control in judgement.controls:
        if not control.passed:
            rate = _percent(control.win_rate)
            say(f"the judge fails a control: {control.name} wins {rate}, and {control.rule}")


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}%"


def print_written(written: Written) -> None:
    """Print instructions with their texts, and the models' answers to one question."""
    show(_pairs(written.pairs))
    if written.answers:
        show(_answers(written.question, written.answers))


def _pairs(pairs: Sequence[RankedPair]) -> Table:
    table = Table(title="Generated instructions and the texts they are for", show_lines=True)
    table.add_column("score", no_wrap=True)
    table.add_column("instruction", ratio=2)
    table.add_column("text", ratio=3)
    for pair in pairs:
        place, _, rank = pair.place.partition(", ")
        cells = (f"{place}\n{pair.score}\n{rank}", pair.instruction, _shortened(pair.text))
        table.add_row(*map(escape, cells))
    return table


def _answers(question: str, answers: Sequence[Answer]) -> Table:
    table = Table(title=escape(f"Answers to: {question}"), show_lines=True)
    table.add_column("model", no_wrap=True)
    table.add_column("answer", ratio=1)
    for answer in answers:
        table.add_row(answer.model, escape(_shortened(answer.text)))
    return table


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_SHOWN_TEXT else f"{text[:MAX_SHOWN_TEXT].rstrip()} [...]"


def print_times(seconds: Mapping[str, float]) -> None:
    """Print the time of every stage, and its share of the work."""
    total = sum(seconds.values())
    table = Table("stage", title="Time")
    for name in ("time", "share"):
        table.add_column(name, justify="right")
    for path, of_stage in seconds.items():
        share = f"{of_stage / total:.0%}" if total else ""
        table.add_row(path, clock.duration(of_stage), share)
    table.add_section()
    table.add_row("all", clock.duration(total), "")
    show(table)


def print_report(written: WrittenReport) -> None:
    """Print a report's answer and its files."""
    say(visible(written.headline))
    for path in (written.page, written.figures, written.markdown):
        say(f"  {path}")
