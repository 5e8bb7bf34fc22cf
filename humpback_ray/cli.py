"""`humpback`: the method from the command line. Thin: every command is a few calls.

Exit codes: 0 done, 2 the user's mistake (one line on stderr), 1 ours (a traceback).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import clock
from humpback_ray.execution.stage import StageRecord
from humpback_ray.planning import estimate, extrapolate
from humpback_ray.sizing.hardware import Hardware, parse_hardware, parse_price

if TYPE_CHECKING:
    from humpback_ray.cluster.doctor import Finding

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

RecipeArgument = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", show_default=False)
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Folder or URL of the run. [runs/NAME]")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting or placement: a.b=c. May be repeated."),
]

UntilOption = Annotated[str | None, typer.Option(help="Stop after this stage.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Dashboard of the cluster, as http://HEAD:8265. [RAY_API_SERVER_ADDRESS, RAY_ADDRESS]"
    ),
]

RAY_DATA_ADDS = "\nFailed to apply UDF transform after"


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a user's mistake into one line and exit code 2."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except storage.errors(ValueError) as error:
            # Ray wraps what a task raised, and Ray Data adds lines of its own to it.
            cause = getattr(error, "cause", None) or error
            message = " ".join(str(cause).partition(RAY_DATA_ADDS)[0].split())
            Console(stderr=True, soft_wrap=True).print(
                f"[bold red]error:[/] {escape(message)}", highlight=False
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped; run the same command again to go on")
            raise typer.Exit(130) from None

    return guarded


@app.command()
@explained
def run(
    recipe: RecipeArgument,
    run: RunOption = None,
    until: UntilOption = None,
    set: SetOption = None,
) -> None:
    """Run a recipe; what is done is skipped, what is unfinished is resumed."""
    from humpback_ray import pipeline
    from humpback_ray.execution import runner

    loaded = load_recipe(recipe, set)
    folder = run_folder_of(run, loaded)
    stages = pipeline.stages_of(loaded)
    records = runner.run(stages, loaded, folder, console, until=until)
    if until is None:
        _print_summary(loaded, folder, records)
    else:
        console.print(f"stopped after {until}; without --until the run goes on")


def _print_summary(loaded: Recipe, folder: str, records: dict[str, StageRecord]) -> None:
    """What was made, where it lies and what to type next."""
    table = Table("model", "trained on", "loss on held-out seed answers", title="Models")
    folders = {"base": "base/model", "M_0": "forward-0/model"}
    folders |= {f"M_{t}": f"iter-{t}/model" for t in range(1, loaded.settings.iterations + 1)}
    for name, path in folders.items():
        loss = records[f"evaluation/{name}"].figures["held_out_loss"]
        # A base model that was given has no training here.
        made = records.get(path)
        examples = f"{made.figures['num_examples']} examples" if made else "-"
        table.add_row(name, examples, "-" if loss is None else f"{loss:.3f} nats")
    console.print(table)
    rows = Table("iteration", "pairs with a score", "mean score", "selected", "from score",
                 title="Self-curation")  # fmt: skip
    for t in range(1, loaded.settings.iterations + 1):
        figures = records[f"iter-{t}/rated"].figures | records[f"iter-{t}/examples"].figures
        rows.add_row(
            str(t), str(figures["num_scored"]), f"{figures['mean_score']:.2f}",
            str(figures["num_selected"]), f"{figures['lowest_selected_score']:.2f}",
        )  # fmt: skip
    console.print(rows)
    last = f"iter-{loaded.settings.iterations}"
    # What is printed is typed again: short where the run lies below the working folder.
    here = f"{storage.absolute('.')}/"
    folder = folder.removeprefix(here)
    humpback = "humpback" if shutil.which("humpback") else sys.argv[0].removeprefix(here)
    seconds = sum(record.seconds for record in records.values())
    console.print(
        Panel(
            escape(
                f"The run lies in {folder} ({clock.duration(seconds)} of work).\n"
                f"  the last model       {last}/model  (transformers and vLLM load it)\n"
                f"  answers to prompts   evaluation/*/outputs.json  (AlpacaEval's format)\n\n"
                f"Next:\n"
                f"  {humpback} look {folder}/{last}/rated -n 3\n"
                f"  {humpback} look {folder}/{last}/examples -n 3\n"
                f"  {humpback} status {folder}\n"
                f"  {humpback} chat {folder}"
            ),
            title=f"{loaded.name}: done",
        )
    )


@app.command()
@explained
def plan(
    recipe: RecipeArgument,
    run: RunOption = None,
    set: SetOption = None,
    hardware: Annotated[
        str | None, typer.Option(help="GPUs of one node, as 8xH100: estimate hours and money.")
    ] = None,
    nodes: Annotated[int, typer.Option(help="How many such nodes.")] = 1,
    price: Annotated[str | None, typer.Option(help="Of one GPU, as 2.5/gpu-hour.")] = None,
    rows: Annotated[
        int | None, typer.Option(help="Segments. [the run's own, or the paper's 502,133]")
    ] = None,
) -> None:
    """Show every stage of a recipe: its fingerprint, and whether it is done; or what it costs."""
    from humpback_ray import pipeline

    if hardware is None and (nodes != 1 or price is not None or rows is not None):
        raise UserError("--nodes, --price and --rows need --hardware, for example 8xH100")
    machines = parse_hardware(hardware, nodes) if hardware else None
    gpu_hour = parse_price(price) if price is not None else None
    loaded = load_recipe(recipe, set)
    folder = run_folder_of(run, loaded)
    stages = pipeline.stages_of(loaded)
    missing = dict.fromkeys(line for stage in stages for line in stage.problems)
    if machines is not None:
        found = {stage.path: stage.find(folder) for stage in stages if not stage.problems}
        estimates = estimate.estimate_stages(
            loaded,
            {stage.path: stage.kind for stage in stages},
            {
                path: record
                for path, (_, record) in found.items()
                if isinstance(record, StageRecord)
            },
            machines,
            rows,
        )
        line = ""
        if rows is None:
            estimates, line = extrapolate.replace_by_probe(loaded, folder, machines, estimates)
        _print_estimates(loaded.name, estimates, machines, gpu_hour, line)
        return
    columns = ("stage", "kind", "fingerprint", "found", "counts, or what differs")
    table = Table(*columns, title=f"{loaded.name} in {folder}")
    for stage in stages:
        if stage.problems:
            table.add_row(stage.path, stage.kind, "-", "to do", "waits for a source, see below")
            continue
        state, begun = stage.find(folder)
        reason = begun.counts if isinstance(begun, StageRecord) else ""
        if state == "changed" and begun is not None:
            reason = "; ".join(stage.differences(begun))
        table.add_row(stage.path, stage.kind, stage.fingerprint[:12], state.value, escape(reason))
    console.print(table)
    for line in missing:
        console.print(f"missing: {line}", markup=False, highlight=False, soft_wrap=True)


def _print_estimates(
    name: str,
    estimates: list[estimate.StageEstimate],
    hardware: Hardware,
    price: float | None,
    line: str,
) -> None:
    """Hours and money by stage; all GPUs are paid for as long as a stage runs."""

    def money(hours: float | None) -> str:
        if hours is None or price is None:
            return "-"
        return f"{hours * hardware.num_gpus * price:,.0f}"

    nodes = f"{hardware.num_nodes} x {hardware.gpus_per_node} {hardware.gpu.name}"
    table = Table("stage", "on each GPU", "layout", "hours", "money", title=f"{name} on {nodes}")
    for row in estimates:
        hours = "-" if row.hours is None else f"{row.hours:.2f}"
        table.add_row(row.path, row.fits, row.layout, hours, money(row.hours))
    total = sum(row.hours or 0.0 for row in estimates)
    gpu_hours = f"{total * hardware.num_gpus:,.0f} GPU-hours"
    table.add_section()
    table.add_row("total", "", gpu_hours, f"{total:.2f}", money(total))
    console.print(table)
    lines = ["Estimated from published figures; CPU stages are not counted."]
    lines += [line] if line else []
    if any(row.hours is None for row in estimates):
        lines.append("Not all stages fit: take more or larger GPUs. The total leaves them out.")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
@explained
def probe(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run with finished segments.")],
    rows: Annotated[int, typer.Option(help="Segments to draw.")] = 256,
    price: Annotated[str | None, typer.Option(help="Of one GPU, as 2.5/gpu-hour.")] = None,
) -> None:
    """Measure on this cluster what a run will take: a sample goes through its stages."""
    from humpback_ray.planning import probe as probing

    gpu_hour = parse_price(price) if price is not None else None
    report = probing.run(storage.absolute(run), rows, console)
    _print_probe(report, gpu_hour)
    console.print(
        f"Written to {run}/{extrapolate.RESULT}, which `humpback plan` reads. 95% is of sampling "
        "alone; noise of the machines is not in it.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _print_probe(report: extrapolate.Report, gpu_hour: float | None) -> None:
    """Time and money by stage, and what to know beside."""
    table = Table(title=f"{report.recipe.name}, measured on {report.num_rows} of "
                  f"{report.num_segments:,} segments")  # fmt: skip
    for name in ("stage", "once", "rows or steps", "time", "95%", "money"):
        if name != "money" or gpu_hour is not None:
            table.add_column(name, no_wrap=name not in ("rows or steps", "95%"))

    def add(name: str, stages: list[extrapolate.StageForecast], *cells: str) -> None:
        seconds = sum(stage.seconds for stage in stages)
        low, high = (sum(stage.interval[at] for stage in stages) for at in (0, 1))
        between = f"{clock.duration(low)} to {clock.duration(high)}" if low < high else ""
        if all(stage.is_done for stage in stages):
            between = "done"
        row = [name, *cells, clock.duration(seconds), between]
        if gpu_hour is not None:
            row.append(f"{seconds / 3600 * report.num_gpus * gpu_hour:,.2f}")
        table.add_row(*row)

    for stage in report.stages:
        units = f"{stage.num_units:,} x {stage.unit_seconds:.3g} s" if stage.unit else ""
        add(stage.path, [stage], clock.duration(stage.fixed_seconds), units)
    table.add_section()
    add("the whole run", report.stages, "", "")
    left = [stage for stage in report.stages if not stage.is_done]
    add("still to do", left, "", "")
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if gpu_hour is not None and not report.num_gpus:
        console.print("There is no GPU here to multiply the price with.", highlight=False)


@app.command()
@explained
def doctor(
    recipe: RecipeArgument,
    run: RunOption = None,
    set: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at a cluster and say what is missing for a recipe; exit code 2 if something is."""
    from humpback_ray import pipeline
    from humpback_ray.cluster import connect, nodes
    from humpback_ray.cluster.doctor import exit_code, find_problems, paths_to_see

    loaded = load_recipe(recipe, set)
    folder = run_folder_of(run, loaded)
    stages = pipeline.stages_of(loaded)
    sources = list(dict.fromkeys(line for stage in stages for line in stage.problems))
    connect.join_cluster(loaded)
    cluster = nodes.inspect_nodes(folder, paths_to_see(loaded))
    findings = find_problems(loaded, folder, cluster, sources)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        where = loaded.placement.cluster.address or os.environ.get("RAY_ADDRESS") or "this machine"
        _print_findings(f"{loaded.name} on {where}", findings)
    raise typer.Exit(exit_code(findings))


def _print_findings(title: str, findings: list[Finding]) -> None:
    """The doctor's table, and what it comes to."""
    table = Table("check", "found", "wanted", "verdict", "way out", title=title)
    colours = {"ok": "green", "warning": "yellow", "missing": "bold red"}
    for each in findings:
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]"
        table.add_row(each.check, escape(each.found), escape(each.wanted), verdict,
                      escape(each.way_out))  # fmt: skip
    console.print(table)
    for verdict in ("missing", "warning"):
        checks = dict.fromkeys(each.check for each in findings if each.verdict == verdict)
        line = f"{verdict}: {'; '.join(checks) or 'nothing'}"
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
@explained
def status(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run, or the id of its job.")],
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a run, live or not: stages, engines, rates, time left, last error, and its job."""
    from humpback_ray.report import run_facts

    found: dict[str, Any] = {}
    hidden = None
    try:
        found = run_facts.status_of(storage.absolute(run))
    except UserError as error:
        hidden = error
    if address is not None or hidden:
        found |= _job_of(run, address, hidden)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if "stages" in found:
        _print_stages(found)
    if found.get("job"):
        _print_job(found["job"], with_lines="stages" not in found)


def _job_of(run: str, address: str | None, hidden: UserError | None) -> dict[str, Any]:
    """The job of a run; without one, what else was wrong with the run's folder."""
    from humpback_ray.cluster import jobs

    if hidden and not address and not jobs.address_in_environment():
        raise hidden
    cluster = jobs.connect(address)
    try:
        return {"job": jobs.view(cluster, jobs.job_of(cluster, run))}
    except UserError:
        if hidden:
            raise
        return {"job": None}


def _print_stages(found: dict[str, Any]) -> None:
    from humpback_ray.report import run_facts

    attempt = f", attempt {found['attempt']}" if found["attempt"] else ""
    title = f"{found['run']}: {found['state']}{attempt}"
    table = Table("stage", "state", "rows", "outcomes, or what goes on", "time", title=title)
    for row in found["stages"]:
        progress = row["progress"] or {}
        rows = "" if row["num_rows"] is None else str(row["num_rows"])
        if progress.get("total"):
            rows = f"{progress['done']} of {progress['total']}"
        outcomes = ", ".join(f"{count} {name}" for name, count in row["outcomes"].items())
        seconds = "" if row["seconds"] is None else clock.duration(row["seconds"])
        text = escape(outcomes or run_facts.describe_unfinished(row))
        table.add_row(row["stage"], row["state"], rows, text, seconds)
    console.print(table)
    if found["last_error"]:
        _say(f"last error: {found['last_error']}")


def _print_job(job: dict[str, Any], *, with_lines: bool) -> None:
    """The job, and the end of its log where the run's folder is not seen from here."""
    _say(f"job {job['id']}: {job['status']}, {job['entrypoint']}")
    if job["status"] == "FAILED":
        _say(f"  {job['message']}")
    for line in job["last_lines"] if with_lines else []:
        _say(f"  | {line}")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


# --- runs on a cluster elsewhere ------------------------------------------------------------------


@app.command()
@explained
def submit(
    recipe: RecipeArgument,
    run: RunOption = None,
    address: AddressOption = None,
    until: UntilOption = None,
    set: SetOption = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave it at once.")] = False,
) -> None:
    """Run a recipe on a cluster, as a Ray job, and show its log. Ctrl-C leaves it running."""
    from humpback_ray.cluster import jobs
    from humpback_ray.cluster.submission import prepare

    loaded = load_recipe(recipe, set)
    cluster = jobs.connect(address)
    with tempfile.TemporaryDirectory(prefix="humpback-submit-") as folder:
        submission = prepare(
            recipe, loaded, jobs.run_on(cluster, run or f"runs/{loaded.name}"), folder,
            until=until, overrides=set,
        )  # fmt: skip
        for note in submission.notes:
            _say(note)
        job, is_new = jobs.submit(cluster, submission)
    verb = "submitted" if is_new else "running already"
    _say(f"{submission.run}: {verb} as {job.submission_id}")
    if no_wait:
        _say(_ways_back(submission.run, cluster.get_address()))
    else:
        _watch(cluster, submission.run, job)


@app.command()
@explained
def logs(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run, or the id of its job.")],
    address: AddressOption = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Print what there is, and do not wait.")
    ] = False,
) -> None:
    """Show the log of a submitted run from its beginning, and go on while it runs."""
    from humpback_ray.cluster import jobs

    cluster = jobs.connect(address)
    job = jobs.job_of(cluster, run)
    if no_follow:
        print(cluster.get_job_logs(job.submission_id), end="")
    else:
        _watch(cluster, run, job)


@app.command()
@explained
def stop(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run, or the id of its job.")],
    address: AddressOption = None,
) -> None:
    """Stop a submitted run; submitting it again goes on from what it has finished."""
    from humpback_ray.cluster import jobs

    cluster = jobs.connect(address)
    job = jobs.job_of(cluster, run)
    if job.status.is_terminal():
        _say(f"{job.submission_id} has ended already: {job.status.value}")
        return
    stopped = jobs.stop(cluster, str(job.submission_id))
    _say(f"{job.submission_id}: {stopped.status.value}; submit the run again to go on")


def _watch(cluster: Any, run: str, job: Any) -> None:
    """Show a job's log to its end, and end with its exit code."""
    from humpback_ray.cluster import jobs

    try:
        ended = jobs.follow(cluster, job.submission_id, partial(print, end="", flush=True))
    except KeyboardInterrupt:
        _say(f"\nleft; {job.submission_id} goes on. {_ways_back(run, cluster.get_address())}")
        raise typer.Exit(130) from None
    code = jobs.exit_code(ended)
    _say(f"{ended.submission_id}: {ended.status.value}")
    if code:
        if ended.driver_exit_code is None and ended.message:
            _say(ended.message)
        raise typer.Exit(code)


def _ways_back(run: str, address: str) -> str:
    where = f"{shlex.quote(run)} --address {address}"
    return "\n".join(
        ["To come back:", *(f"  humpback {verb} {where}" for verb in ("logs", "status", "stop"))]
    )


@app.command()
@explained
def look(
    stage: Annotated[str, typer.Argument(help="RUN/STAGE, for example runs/tiny/candidates.")],
    number: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows with field=value. May be repeated.")
    ] = None,
) -> None:
    """Show rows of a stage as a person wants to read them."""

    from humpback_ray.report.look import select_rows

    shown = select_rows(storage.absolute(stage), number, where or [])
    for title, fields in shown.rows:
        body = "\n".join(f"[bold cyan]{name}[/]  {escape(text)}" for name, text in fields)
        console.print(Panel(body, title=escape(title), title_align="left"))
    console.print(f"{len(shown.rows)} of {shown.num_matching} rows in {shown.folder}")


@app.command()
@explained
def chat(
    run: Annotated[str, typer.Argument(help="Folder of a run, or of a model.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Talk to the last model of a run. An empty line ends the talk."""
    from humpback_ray.report import run_facts
    from humpback_ray.serving.chat import Chat

    folder = run_facts.last_model(storage.absolute(run))
    console.print(f"Loading {folder}; an empty line ends the talk.")
    talk = Chat(folder, max_tokens)
    while True:
        try:
            text = console.input("[bold cyan]you>[/] ").strip()
        except EOFError:
            break
        if not text:
            break
        for piece in talk.answer(text):
            console.print(piece, end="", markup=False, highlight=False)
        console.print()


def run_folder_of(run: str | None, loaded: Recipe) -> str:
    """The folder or URL of a run: what was given, or runs/ and the recipe's name."""
    return storage.absolute(run or f"runs/{loaded.name}")


def main() -> None:
    """Entry point of `humpback`."""
    # A cp1252 or C locale must not stop a run over an arrow in a message.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()


if __name__ == "__main__":
    main()
