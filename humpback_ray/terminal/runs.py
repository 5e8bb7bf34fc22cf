"""Lines and tables of a run, of its job, and of its rows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from humpback_ray.execution import clock
from humpback_ray.report.console import visible
from humpback_ray.terminal import output
from humpback_ray.terminal.output import say, show, write

# For types alone, because these modules load libraries that `humpback --help` does not wait for.
if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from humpback_ray.cluster.jobs import JobServer
    from humpback_ray.figures.run_facts import RunFacts
    from humpback_ray.report.look import Shown
    from humpback_ray.report.run_status import RunStatus


def print_run(run: RunFacts) -> None:
    """Print a run's stages, and the last error of its last attempt."""
    from humpback_ray.figures.run_facts import describe_unfinished

    title = escape(f"{run.run}: {run.state}, attempt {run.attempt}")
    table = Table("stage", "state", "rows", "outcomes, or what goes on", "time", title=title)
    for stage in run.stages:
        rows = "" if stage.num_rows is None else str(stage.num_rows)
        if stage.progress and stage.progress.total:
            rows = f"{stage.progress.done} of {stage.progress.total}"
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
        if output.console.quiet:  # nobody reads it any more
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
        show(Panel(body, title=Text(visible(row.title)), title_align="left"))
    say(f"{len(shown.rows)} of {shown.num_matching} rows in {shown.folder}")
