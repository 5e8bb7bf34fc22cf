"""Tables and lines of the command line. Every function prints typed values."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from humpback_ray import storage
from humpback_ray.execution import clock
from humpback_ray.report.console import Console, visible
from humpback_ray.sizing.hardware import Hardware
from humpback_ray.terminal.safety import refusals_table

# For types alone, because these modules load libraries that `humpback --help` does not wait for.
if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from humpback_ray.cluster.findings import Finding
    from humpback_ray.cluster.jobs import JobServer
    from humpback_ray.evaluation.prompt_sets import PromptSet
    from humpback_ray.planning.estimate import RunEstimate
    from humpback_ray.planning.extrapolate import ProbeReport, StageForecast
    from humpback_ray.planning.plan import Plan
    from humpback_ray.report.look import Shown
    from humpback_ray.report.run_facts import RunFacts
    from humpback_ray.report.run_report import WrittenReport
    from humpback_ray.report.run_status import RunStatus
    from humpback_ray.report.run_summary import ModelResult, RunSummary
    from humpback_ray.report.written import Answer, RankedPair, Written

console = Console()


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def write(text: str, end: str = "\n") -> None:
    """Print a text of many lines, such as JSON or a log, without wrapping it."""
    console.out(text, end=end, highlight=False)


def print_json(value: Any) -> None:
    """Print plain values for programs."""
    write(json.dumps(value, indent=2))


def show(table: Table) -> None:
    """Print a table. A word wider than its column is broken, because Rich would cut names off."""
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)


def say_aside(line: str) -> None:
    """Print a line to stderr, beside the output that programs read."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


def say_error(label: str, message: str) -> None:
    """Print `label: message` as one line to stderr."""
    line = f"[bold red]{label}:[/] {escape(message)}"
    Console(stderr=True, soft_wrap=True).print(line, highlight=False)


# --- humpback run ---------------------------------------------------------------------------------


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
    console.print(Panel(escape(text), title=f"{name}: done"))


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


def _print_games(judgement: Mapping[str, Any]) -> None:
    """Print the win rates, and every control that the judge has failed beside them."""
    by = f"Games, judged by {judgement['judge']} ({judgement['verdicts_by']})"
    columns = ("model", "against", "win rate", "95% interval", "length-controlled", "judged")
    table = Table(*columns, title=escape(by))
    for game in judgement["games"]:
        table.add_row(
            escape(game["model"]),
            escape(game["opponent"]),
            _percent(game["win_rate"]),
            f"{_percent(game['low'])} to {_percent(game['high'])}",
            _percent(game["length_controlled_win_rate"]),
            f"{game['num_judged']} of {game['num_prompts']}",
        )
    show(table)
    for control in judgement["controls"]:
        if not control["passed"]:
            rate = _percent(control["win_rate"])
            say(f"the judge fails a control: {control['name']} wins {rate}, and {control['rule']}")


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}%"


MAX_SHOWN_TEXT = 420  # characters of a text or an answer: about six lines


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


# --- humpback plan, estimate, probe, doctor -------------------------------------------------------


def print_prompt_sets(prompts: PromptSet, path: str) -> None:
    """Print what every source has given, then the sources without a file."""
    columns = ("source", "prompts", "new", "in the paper", "from", "licence")
    table = Table(*columns, title=f"{len(prompts.rows)} prompts, each text once")
    for count in prompts.counts:
        numbers = (count.num_prompts, count.num_new, count.source.num_published)
        table.add_row(
            count.source.name, *map(str, numbers), count.read_from or "-", count.source.licence
        )
    show(table)
    for line in prompts.missing:
        say(f"missing: {line}")
    say(f"written to {path}: set settings.evaluation.prompts to it")


def print_plan(title: str, plan: Plan) -> None:
    """Print every stage with its fingerprint and state, then the missing sources."""
    columns = ("stage", "kind", "fingerprint", "found", "counts, or what differs")
    table = Table(*columns, title=escape(title))
    for stage in plan.stages:
        fingerprint = stage.fingerprint[:12] if stage.fingerprint else "-"
        table.add_row(stage.path, stage.kind, fingerprint, stage.state, escape(stage.detail))
    show(table)
    for line in plan.missing:
        say(f"missing: {line}")


def print_estimate(
    name: str, estimate: RunEstimate, hardware: Hardware, price: float | None
) -> None:
    """Print hours and money by stage; the price counts all GPUs for as long as a stage runs."""

    def money(hours: float | None) -> str:
        if hours is None or price is None:
            return "-"
        return f"{hours * hardware.num_gpus * price:,.0f}"

    nodes = f"{hardware.num_nodes} x {hardware.gpus_per_node} {hardware.gpu.name}"
    table = Table("stage", "on each GPU", "layout", "hours", "money", title=f"{name} on {nodes}")
    for row in estimate.stages:
        hours = "-" if row.hours is None else f"{row.hours:.2f}"
        table.add_row(row.path, row.fits, row.layout, hours, money(row.hours))
    total = sum(row.hours or 0.0 for row in estimate.stages)
    gpu_hours = f"{total * hardware.num_gpus:,.0f} GPU-hours"
    table.add_section()
    table.add_row("total", "", gpu_hours, f"{total:.2f}", money(total))
    show(table)
    say("Estimated from published figures; CPU stages are not counted.")
    if estimate.note:
        say(estimate.note)
    if any(row.hours is None for row in estimate.stages):
        say("Not all stages fit: take more or larger GPUs. The total leaves them out.")


def print_probe(report: ProbeReport, price: float | None) -> None:
    """Print time and money by stage, then the notes."""
    table = Table(title=f"{report.recipe.name}, measured on {report.num_rows} of "
                  f"{report.num_segments:,} segments")  # fmt: skip
    for name in ("stage", "once", "rows or steps", "time", "95%", "money"):
        if name != "money" or price is not None:
            table.add_column(name, no_wrap=name not in ("rows or steps", "95%"))
    for stage in report.stages:
        units = f"{stage.num_units:,} x {stage.unit_seconds:.3g} s" if stage.unit else ""
        once = clock.duration(stage.fixed_seconds)
        table.add_row(stage.path, once, units, *_time_and_money([stage], report, price))
    table.add_section()
    table.add_row("the whole run", "", "", *_time_and_money(report.stages, report, price))
    to_do = [stage for stage in report.stages if not stage.is_done]
    table.add_row("still to do", "", "", *_time_and_money(to_do, report, price))
    show(table)
    for note in report.notes:
        say(note)
    if price is not None and not report.num_gpus:
        say("There is no GPU here to multiply the price with.")


def _time_and_money(
    stages: Sequence[StageForecast], report: ProbeReport, price: float | None
) -> list[str]:
    seconds = sum(stage.seconds for stage in stages)
    low, high = (sum(stage.interval[bound] for stage in stages) for bound in (0, 1))
    interval = f"{clock.duration(low)} to {clock.duration(high)}" if low < high else ""
    if all(stage.is_done for stage in stages):
        interval = "done"
    cells = [clock.duration(seconds), interval]
    if price is not None:
        cells.append(f"{seconds / 3600 * report.num_gpus * price:,.2f}")
    return cells


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    """Print the doctor's table, then each finding that is not all right as a line to copy from."""
    columns = ("check", "found", "wanted", "verdict", "way out")
    table = Table(*columns, title=escape(title))
    colours = {"ok": "green", "warning": "yellow", "missing": "bold red"}
    for finding in findings:
        verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
        texts = (finding.check, escape(finding.found), escape(finding.wanted))
        table.add_row(*texts, verdict, escape(finding.way_out))
    show(table)
    for verdict in ("missing", "warning"):
        found = [finding for finding in findings if finding.verdict == verdict]
        for finding in found:
            line = f"{verdict}: {finding.check}: {finding.found}, wanted: {finding.wanted}"
            say(f"{line}; {finding.way_out}" if finding.way_out else line)
        if not found:
            say(f"{verdict}: nothing")


# --- humpback status, look, chat ------------------------------------------------------------------


def print_run(run: RunFacts) -> None:
    """Print a run's stages, and the last error of its last attempt."""
    from humpback_ray.report.run_facts import describe_unfinished

    title = escape(f"{run.run}: {run.state}, attempt {run.attempt}")
    table = Table("stage", "state", "rows", "outcomes, or what goes on", "time", title=title)
    for stage in run.stages:
        progress = stage.progress or {}
        rows = "" if stage.num_rows is None else str(stage.num_rows)
        if progress.get("total"):
            rows = f"{progress['done']} of {progress['total']}"
        outcomes = ", ".join(f"{count} {name}" for name, count in stage.outcomes.items())
        seconds = "" if stage.seconds is None else clock.duration(stage.seconds)
        text = escape(outcomes or describe_unfinished(stage))
        table.add_row(stage.stage, stage.state, rows, text, seconds)
    show(table)
    if run.last_error:
        say(f"last error: {run.last_error}")


def print_status(status: RunStatus) -> None:
    """Print a run, and its job; the job's last lines only without facts about the run."""
    if status.facts:
        print_run(status.facts)
    if status.job:
        print_job(status.job, with_log=status.facts is None)


def print_job(job: Mapping[str, Any], *, with_log: bool) -> None:
    """Print a job, and the end of its log if asked for."""
    say(f"job {job['id']}: {job['status']}, {job['entrypoint']}")
    if job["status"] == "FAILED":
        say(f"  {job['message']}")
    for line in job["last_lines"] if with_log else []:
        say(f"  | {line}")


def ways_back(run_folder: str, address: str) -> str:
    """The commands that find a submitted run again."""
    where = f"{shlex.quote(run_folder)} --address {address}"
    commands = [f"  humpback {verb} {where}" for verb in ("logs", "status", "stop")]
    return "\n".join(["To come back:", *commands])


def follow_job(server: JobServer, run_folder: str, job: JobDetails) -> int:
    """Print a job's log to its end; returns the job's exit code, or 130 if Ctrl-C came first."""
    from humpback_ray.cluster import jobs

    def show(text: str) -> None:
        write(text, end="")
        if console.quiet:  # nobody reads it any more
            raise KeyboardInterrupt

    try:
        ended = jobs.follow(server, str(job.submission_id), show)
    except KeyboardInterrupt:
        back = ways_back(run_folder, server.get_address())
        say(f"\nleft; {job.submission_id} keeps running. {back}")
        return 130
    say(f"{ended.submission_id}: {ended.status.value}")
    code = jobs.exit_code(ended)
    if code and ended.driver_exit_code is None and ended.message:
        say(ended.message)
    return code


def print_rows(shown: Shown) -> None:
    """Print rows as panels."""
    for row in shown.rows:
        body = Text("\n").join(
            Text.assemble((name, "bold cyan"), f"  {visible(text)}") for name, text in row.fields
        )
        console.print(Panel(body, title=Text(visible(row.title)), title_align="left"))
    say(f"{len(shown.rows)} of {shown.num_matching} rows in {shown.folder}")


def print_report(written: WrittenReport) -> None:
    """Print a report's answer and its files."""
    say(visible(written.headline))
    for path in (written.page, written.figures, written.markdown):
        say(f"  {path}")


def talk(answer: Callable[[str], Iterable[str]]) -> None:
    """Read turns and print the answers, until an empty line or the end of the input."""
    while True:
        try:
            text = console.input("[bold cyan]you>[/] ").strip()
        except EOFError:
            break
        if not text:
            break
        for piece in wrapped(answer(text), console.width):
            console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        console.print()


def wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """Pieces of a text as they come, with line breaks between words so that no line is wider.

    A word appears once it is whole, and a word wider than a line stays whole. The spaces at the
    beginning of a line stay, because code has them.
    """
    column, spaces, word = 0, "", ""
    for character in chain.from_iterable(chain(pieces, ["\n"])):
        if not character.isspace():
            word += character
            continue
        if word:
            if column and column + len(spaces) + len(word) > width:
                column, spaces = 0, "\n"
            yield spaces + word
            column += len(spaces.rpartition("\n")[2]) + len(word)
            spaces = word = ""
        if character == "\n":
            column, spaces = 0, spaces + character
        else:
            spaces += character
