"""`humpback`: the method from the command line. Every command is a few calls.

Exit codes: 0 success; 2 the user's mistake, as one line on stderr; 1 a bug, as one line that names
the file with its traceback; 130 stopped.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from humpback_ray import storage
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.figures.run_facts import last_model, run_folder_of
from humpback_ray.report.console import open_streams
from humpback_ray.report.run_status import find_status
from humpback_ray.sizing.hardware import parse_hardware, parse_price
from humpback_ray.terminal.chat import talk
from humpback_ray.terminal.explained import explained
from humpback_ray.terminal.options import (
    AddressOption,
    IntoOption,
    JsonOption,
    PriceOption,
    RecipeArgument,
    RunOption,
    RunOrJobArgument,
    SetOption,
    UntilOption,
)
from humpback_ray.terminal.output import console, print_json, say, say_aside, write
from humpback_ray.terminal.plans import (
    print_estimate,
    print_findings,
    print_plan,
    print_probe,
    print_prompt_sets,
)
from humpback_ray.terminal.publishing import print_push
from humpback_ray.terminal.results import print_report, print_summary, print_times, print_written
from humpback_ray.terminal.runs import follow_job, print_rows, print_status, ways_back
from humpback_ray.terminal.votes import print_links, print_pages, print_people, print_study

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


# --- a run ----------------------------------------------------------------------------------------


@app.command()
@explained
def run(
    recipe: RecipeArgument,
    run_folder: RunOption = None,
    until: UntilOption = None,
    overrides: SetOption = None,
) -> None:
    """Run a recipe: skip finished stages, resume unfinished ones."""
    from humpback_ray import pipeline
    from humpback_ray.execution import runner
    from humpback_ray.report.run_summary import summarize
    from humpback_ray.report.written import read_written

    loaded = load_recipe(recipe, overrides)
    folder, stages = run_folder_of(run_folder, loaded), pipeline.stages_of(loaded)
    records = runner.run(stages, loaded, folder, console, until=until)
    if until is None:
        print_written(read_written(folder, stages))
        print_times({path: record.seconds for path, record in records.items()})
        print_summary(loaded.name, folder, summarize(stages, records))
    else:
        say(f"stopped after {until}; the same command without --until resumes")


@app.command()
@explained
def status(
    run_folder: RunOrJobArgument, address: AddressOption = None, as_json: JsonOption = False
) -> None:
    """Show a run, live or not: stages, engines, rates, time left, last error, and its job."""
    found = find_status(run_folder, address)
    if as_json:
        print_json(found.as_dict())
    else:
        print_status(found)


@app.command()
@explained
def look(
    stage: Annotated[str, typer.Argument(help="RUN/STAGE, for example runs/tiny/candidates.")],
    number: Annotated[int, typer.Option("-n", min=1, help="Number of rows.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows with field=value. May be repeated.")
    ] = None,
    ranked: Annotated[
        bool, typer.Option(help="The best, the middle and the worst by score, N of each.")
    ] = False,
    dropped: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Dropped rows; a duplicate beside the text that it repeats."
        ),
    ] = None,
) -> None:
    """Show rows of a stage in a readable form."""
    from humpback_ray.report.look import select_rows

    if dropped and ranked:
        raise UserError("dropped rows have no scores: leave out --ranked or --dropped")
    if dropped:
        from humpback_ray.report.look_dropped import select_dropped
        from humpback_ray.terminal.dropped import print_dropped

        print_dropped(*select_dropped(storage.absolute(stage), number, dropped, where or []))
        return
    print_rows(select_rows(storage.absolute(stage), number, where or [], ranked=ranked))


@app.command()
@explained
def report(
    run_folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder or URL of a run.", show_default=False)
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Another run, to compare with the first.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels of people as JSON lines, to measure the raters.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for the files. [RUN/report, or ./report-RUN-RUN]")
    ] = None,
    parser: Annotated[
        str | None, typer.Option(help="spaCy model for root verbs. [an installed one of English]")
    ] = None,
) -> None:
    """Write what a run shows as one HTML page, Markdown and JSON; of two runs, what differs."""
    from humpback_ray.report import run_report

    target = storage.absolute(out) if out else None
    if other is None:
        written = run_report.report_run(storage.absolute(run_folder), labels, target, parser)
    elif labels or parser:
        raise UserError("labels and a parser belong to one run: report each run with them")
    else:
        runs = (storage.absolute(run_folder), storage.absolute(other))
        written = run_report.report_two(*runs, target)
    print_report(written)


@app.command()
@explained
def push(
    run_folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder or URL of a run.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write and check the cards, and upload nothing.")
    ] = False,
    to: Annotated[str | None, typer.Option(help="User or organisation on the hub.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Begins the repositories' names. [the run's]")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="As M_2 or M_yx,M_2. [M_0 and every M_t]")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the training examples, as cc-by-4.0. [unknown]")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make new repositories visible for everybody.")
    ] = False,
) -> None:
    """Publish a finished run on the Hugging Face hub: its models, its examples, and their cards."""
    from humpback_ray.publishing.plan import PushRequest, plan_push
    from humpback_ray.publishing.upload import connect, upload

    if not dry_run and to is None:
        raise UserError("give --to the user or organisation on the hub, or --dry-run")
    hub = None if dry_run else connect()
    chosen = tuple(part.strip() for part in models.split(",")) if models else ()
    planned = plan_push(PushRequest(storage.absolute(run_folder), to, name, chosen, licence))
    print_push(planned)
    if hub is None:
        say("dry run: nothing is uploaded")
    else:
        upload(hub, planned, not public, say)


@app.command()
@explained
def ablate(
    recipe: RecipeArgument,
    arms: Annotated[
        str,
        typer.Option(help="Groups of arms: curation,data,tags,size,seed,k.", show_default=False),
    ],
    run_folder: RunOption = None,
    sizes: Annotated[
        str | None, typer.Option(help="Selected pairs of `size`. [3200,6400,12800,25600]")
    ] = None,
    seed_sizes: Annotated[
        str | None, typer.Option(help="Seed pairs of `seed`. [100,800,1600,3200]")
    ] = None,
    thresholds: Annotated[str | None, typer.Option(help="Of `k`. [3,3.5,4,4.5]")] = None,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be computed, and compute nothing.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Repeat the end of a finished run with one thing changed at a time, and compare the models."""
    from humpback_ray.ablations import options, plan, results
    from humpback_ray.ablations.run import run_arms
    from humpback_ray.terminal.ablations import print_ablation_plan, print_ablations

    folder = run_folder_of(run_folder, load_recipe(recipe, overrides))
    groups, values = options.groups(arms), options.values(sizes, seed_sizes, thresholds)
    planned = plan.plan_ablations(recipe, overrides or [], folder, groups, values)
    print_ablation_plan(planned)
    if not only_plan:
        run_arms(planned, console)
        found = results.read_results(planned)
        print_ablations(found, results.write_results(found, folder))


@app.command()
@explained
def chat(
    run_folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a run, or of a model.")
    ],
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Talk to the last model of a run; an empty line ends the talk."""
    from humpback_ray.serving.chat import Chat

    folder = last_model(storage.absolute(run_folder))
    say(f"Loading {folder}; an empty line ends the talk.")
    talk(Chat(folder, max_tokens).answer)


# --- what people say ------------------------------------------------------------------------------


@app.command()
@explained
def annotate(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")],
    models: Annotated[
        str | None,
        typer.Option(help="Models of the run or files of outputs: the first against each other."),
    ] = None,
    mode: Annotated[str, typer.Option(help="pairs, or labels: good or bad.")] = "pairs",
    raters: Annotated[str, typer.Option(help="Their number, or names as ann,ben.")] = "1",
    number: Annotated[int, typer.Option(min=1, help="Prompts, or rated pairs.")] = 250,
    shared: Annotated[float, typer.Option(min=0, max=1, help="Share for all raters.")] = 0.2,
    screening: Annotated[
        str | None, typer.Option(help="File of items with known answers, or none. [six shipped]")
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="Of the rated pairs. [last]")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    file: Annotated[
        str | None, typer.Option(help="Write a page for each rater as one HTML file instead.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; a foreign one asks for tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8765,
    into: IntoOption = None,
) -> None:
    """Show people pairs of answers, or rated pairs, without names, and keep their votes."""
    from humpback_ray.evaluation.people import page, setup

    run = storage.absolute(run_folder)
    folder = setup.people_folder(run, into)
    asked = setup.Asked(
        run, setup.parse_mode(mode), models, raters, number, shared, screening, iteration, seed
    )
    study = setup.draw_study(asked, folder)
    print_study(study, folder)
    if file is not None:
        print_pages(page.write_files(study, file), run_folder, into)
        return
    from humpback_ray.evaluation.people.server import serve
    from humpback_ray.evaluation.people.votes import VoteLog

    served = serve(folder, study, VoteLog(folder), host, port)
    print_links(served.links, is_open=served.is_open)
    served.run()


@app.command()
@explained
def votes(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")],
    add: Annotated[
        list[str] | None, typer.Option(help="A file that a rater sent back. May be repeated.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(help="Folder for votes, alpaca_eval's annotations.json, and labels."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A rater to leave out. May be repeated.")
    ] = None,
    into: IntoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count people's votes: wins with intervals, agreement, and the judge beside them."""
    from humpback_ray.evaluation.people import results, setup

    run = storage.absolute(run_folder)
    folder = setup.people_folder(run, into)
    for returned in setup.add_files(folder, add or []):
        say_aside(returned)
    people = results.read_people(folder, without or [])
    summary = results.summarize(people, run)
    if as_json:
        print_json(asdict(summary))
    else:
        print_people(summary, results.PAPER)
    for path in results.export(people, storage.absolute(export), run) if export else []:
        say_aside(f"written: {path}")


# --- before paying --------------------------------------------------------------------------------


def _refuse_hardware(value: str | None) -> None:
    if value is not None:
        raise typer.BadParameter(f"`humpback estimate RECIPE --hardware {value}` prints hours")


@app.command()
@explained
def prompts(
    folder: Annotated[str, typer.Argument(help="Folder with the sources' files.")],
    output: Annotated[str, typer.Argument(help="JSON file to write.")],
    development: Annotated[
        int | None, typer.Option(min=1, help="So many, without AlpacaEval's. [all]")
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME=PLACE", help="A source's file, URL or dataset://."),
    ] = None,
) -> None:
    """Collect evaluation prompts from the published files of the paper's sources."""
    from humpback_ray.evaluation import prompt_sets

    folder = storage.absolute(folder)
    named = prompt_sets.named_sources(sources or [])
    found = prompt_sets.read_prompt_sets(folder, named)
    if development is not None:
        of_alpaca = prompt_sets.alpaca_prompts(folder, named)
        found = prompt_sets.development_set(found, development, of_alpaca)
    storage.write_json(storage.absolute(output), found.rows)
    print_prompt_sets(found, output)


@app.command()
@explained
def plan(
    recipe: RecipeArgument,
    run_folder: RunOption = None,
    overrides: SetOption = None,
    hardware: Annotated[str | None, typer.Option(hidden=True, callback=_refuse_hardware)] = None,
) -> None:
    """Show every stage of a recipe: its fingerprint and its state in the run folder."""
    from humpback_ray.planning.plan import plan_run

    loaded = load_recipe(recipe, overrides)
    folder = run_folder_of(run_folder, loaded)
    print_plan(f"{loaded.name} in {folder}", plan_run(loaded, folder))


@app.command()
@explained
def estimate(
    recipe: RecipeArgument,
    hardware: Annotated[str, typer.Option(help="GPUs of one node, as 8xH100.", show_default=False)],
    nodes: Annotated[int, typer.Option(help="Number of such nodes.")] = 1,
    price: PriceOption = None,
    rows: Annotated[
        int | None, typer.Option(help="Segments. [the run's own, or the paper's 502,133]")
    ] = None,
    run_folder: RunOption = None,
    overrides: SetOption = None,
) -> None:
    """Estimate a recipe's memory, hours and money on given GPUs, stage by stage."""
    from humpback_ray.planning.plan import estimate_run

    machines = parse_hardware(hardware, nodes)
    gpu_hour = parse_price(price) if price is not None else None
    loaded = load_recipe(recipe, overrides)
    estimated = estimate_run(loaded, run_folder_of(run_folder, loaded), machines, rows)
    print_estimate(loaded.name, estimated, machines, gpu_hour)


@app.command()
@explained
def probe(
    run_folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder or URL of a run with finished segments.")
    ],
    rows: Annotated[int, typer.Option(help="Segments to draw.")] = 256,
    price: PriceOption = None,
) -> None:
    """Measure the time of a run on this cluster by a sample through its stages."""
    from humpback_ray.planning.extrapolate import RESULT
    from humpback_ray.planning.probe import probe_run

    gpu_hour = parse_price(price) if price is not None else None
    print_probe(probe_run(storage.absolute(run_folder), rows, console), gpu_hour)
    say(
        f"Written to {run_folder}/{RESULT}, which `humpback estimate` reads. The 95% cover "
        "sampling alone, without the noise of the machines."
    )


@app.command()
@explained
def doctor(
    recipe: RecipeArgument,
    run_folder: RunOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what a cluster lacks for a recipe; exit code 2 if it lacks something."""
    from humpback_ray import pipeline
    from humpback_ray.cluster.connect import cluster_address
    from humpback_ray.cluster.doctor import examine, exit_code
    from humpback_ray.planning.plan import missing_sources

    loaded = load_recipe(recipe, overrides)
    missing = missing_sources(pipeline.stages_of(loaded))
    findings = examine(loaded, run_folder_of(run_folder, loaded), missing)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        where = cluster_address(loaded) or "this machine"
        print_findings(f"{loaded.name} on {where}", findings)
    raise typer.Exit(exit_code(findings))


# --- runs on a cluster elsewhere ------------------------------------------------------------------


@app.command()
@explained
def submit(
    recipe: RecipeArgument,
    run_folder: RunOption = None,
    address: AddressOption = None,
    until: UntilOption = None,
    overrides: SetOption = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
) -> None:
    """Run a recipe on a cluster as a Ray job and follow its log. Ctrl-C leaves it running."""
    from humpback_ray.cluster import jobs

    loaded = load_recipe(recipe, overrides)
    server = jobs.connect(address)
    folder = jobs.run_on(server, run_folder or f"runs/{loaded.name}")
    job, is_new = jobs.submit_run(
        server, recipe, loaded, folder, say, until=until, overrides=overrides
    )
    say(f"{folder}: {'submitted' if is_new else 'running already'} as {job.submission_id}")
    if no_wait:
        say(ways_back(folder, server.get_address()))
    else:
        raise typer.Exit(follow_job(server, folder, job))


@app.command()
@explained
def logs(
    run_folder: RunOrJobArgument,
    address: AddressOption = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Print the log so far and return.")
    ] = False,
) -> None:
    """Show the log of a submitted run from its beginning, and follow it until the run ends."""
    from humpback_ray.cluster import jobs

    server = jobs.connect(address)
    job = jobs.job_of(server, run_folder)
    if no_follow:
        write(server.get_job_logs(job.submission_id), end="")
    else:
        raise typer.Exit(follow_job(server, run_folder, job))


@app.command()
@explained
def stop(run_folder: RunOrJobArgument, address: AddressOption = None) -> None:
    """Stop a submitted run; submitting it again resumes it."""
    from humpback_ray.cluster import jobs

    server = jobs.connect(address)
    job = jobs.job_of(server, run_folder)
    if job.status.is_terminal():
        say(f"{job.submission_id} has ended already: {job.status.value}")
        return
    stopped = jobs.stop(server, str(job.submission_id))
    say(f"{job.submission_id}: {stopped.status.value}; submit the run again to resume it")


def main() -> None:
    """Entry point of `humpback`."""
    open_streams()
    app()


if __name__ == "__main__":
    main()
