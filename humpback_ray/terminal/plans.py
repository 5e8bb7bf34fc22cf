"""Tables before a run: prompts, stages, hours, money, and what the cluster lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from humpback_ray.execution import clock
from humpback_ray.sizing.hardware import Hardware
from humpback_ray.terminal.output import say, show

# For types alone, because these modules load libraries that `humpback --help` does not wait for.
if TYPE_CHECKING:
    from humpback_ray.cluster.findings import Finding
    from humpback_ray.evaluation.prompt_sets import PromptSet
    from humpback_ray.planning.estimate import RunEstimate
    from humpback_ray.planning.extrapolate import ProbeReport, StageForecast
    from humpback_ray.planning.plan import Plan


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
