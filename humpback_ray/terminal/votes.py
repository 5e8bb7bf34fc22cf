"""Lines and tables of `humpback annotate` and `humpback votes`: what people are asked and say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from humpback_ray.terminal.output import say, show

if TYPE_CHECKING:
    from humpback_ray.evaluation.estimates import Estimate
    from humpback_ray.evaluation.people.results import PairResult, PeopleResults
    from humpback_ray.evaluation.people.study import Study


def print_study(study: Study, folder: str) -> None:
    """Print what a study has drawn, and what it left out."""
    sizes = [len(sheet) for sheet in study.sheets.values()]
    most = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
    num_screening = sum(item.is_screening for item in study.items.values())
    say(
        f"study {study.study_id} in {folder}: {len(study.items) - num_screening} items for "
        f"{len(sizes)} raters, {most} each with {num_screening} screening items and the repeats"
    )
    for reason, count in study.left_out.items():
        say(f"  left out: {count} {reason}")


def print_links(links: Mapping[str, str], *, is_open: bool) -> None:
    """Print each rater's link, and what to know of an open address."""
    for rater, link in links.items():
        say(f"  rater {rater}  {link}")
    if is_open:
        say(
            "Anyone with a link can vote as that rater. Texts and tokens travel unencrypted: use a "
            "network that you trust, an SSH tunnel, or a proxy with HTTPS."
        )
    say("Ctrl-C stops; votes are kept, and the same command goes on with the same links.")


def print_pages(files: Mapping[str, str], run_folder: str, into: str | None) -> None:
    """Print each rater's file and the command that reads votes back."""
    for rater, file in files.items():
        say(f"  rater {rater}  {file}")
    where = f"{shlex.quote(run_folder)}{f' --into {shlex.quote(into)}' if into else ''}"
    say(
        "Send each rater one file. Which side is which model stays here, in plan.json.\n"
        f"What comes back:  humpback votes {where} --add votes-....jsonl"
    )


def print_people(results: PeopleResults, paper: Mapping[str, tuple[float, float, float]]) -> None:
    """Print what people say, beside the paper's figures."""
    if results.pairs:
        show(_people_pairs(results, paper))
    for pair in results.pairs:
        _say_judge(pair)
    if results.labels:
        show(_people_labels(results))
    show(_people_raters(results))
    for what, alpha in (("pairs", results.pair_agreement), ("labels", results.label_agreement)):
        if alpha:
            say(f"Krippendorff's alpha on {alpha.n} {what} with two raters or more: "
                f"{_interval(alpha, 2)}")  # fmt: skip
    skips = ", ".join(
        f"{count} {reason or 'no reason'}" for reason, count in results.reasons.items()
    )
    say(f"skipped: {skips or 'nothing'}; undone: {results.num_undone}; unreadable lines: "
        f"{results.num_unreadable}")  # fmt: skip


def _people_pairs(results: PeopleResults, paper: Mapping[str, tuple[float, float, float]]) -> Table:
    title = "People's votes in %, with the 95% interval over items"
    table = Table("pair", "items", "votes", "win", "tie", "loss", "win rate", title=title)
    for pair in results.pairs:
        shares = (pair.win, pair.tie, pair.loss, pair.win_rate)
        counts = (str(pair.num_items), str(pair.num_votes))
        names = escape(f"{pair.first} : {pair.second}")
        table.add_row(names, *counts, *(_percent(share) for share in shares))
    for opponent, (win, tie, loss) in paper.items():
        rate = f"{win + tie / 2:.1f}"
        table.add_row(f"the paper's Humpback 65B : {opponent}", "", "", f"{win}", f"{tie}",
                      f"{loss}", rate, style="dim")  # fmt: skip
    return table


def _say_judge(pair: PairResult) -> None:
    judge = pair.judge
    if judge is None:
        return
    rate, num_decided = judge.rate, judge.agreement.n if judge.agreement else 0
    say(
        f"{pair.first} : {pair.second}: the judge agrees with people on "
        f"{_percent(judge.agreement)}% of {num_decided} decided pairs "
        f"({judge.num_ties} left undecided by either); its win "
        f"rate {_percent(rate.raw)}%, corrected for its errors: "
        + (f"{_percent(rate.corrected)}%" if not rate.problem else f"none, {rate.problem}")
        + f"; {judge.num_judged:,} of {judge.num_prompts:,} prompts judged"
    )
    if judge.failed_controls is None:
        say("the judge's controls are not known")
    elif judge.failed_controls:
        failed = ", ".join(judge.failed_controls)
        say(f"the judge fails a control ({failed}): its win rate says nothing about quality")


def _people_labels(results: PeopleResults) -> Table:
    title = "Labels by the rater's score"
    table = Table("score", "rated pairs", "good", "bad", "unsure", title=title)
    for row in results.labels:
        numbers = (row.num_pool, row.good, row.bad, row.unsure)
        table.add_row(row.stratum, *(f"{number:,}" for number in numbers))
    return table


def _people_raters(results: PeopleResults) -> Table:
    columns = ("rater", "votes", "skipped", "screening right", "same vote again", "left side, %",
               "seconds", "too fast")  # fmt: skip
    table = Table(*columns, title="Raters")
    for rater in results.raters:
        flag = " (failed)" if rater.failed_screening else ""
        seconds = rater.pace.median_seconds
        table.add_row(
            escape(rater.rater), str(rater.num_votes), str(rater.num_skipped),
            f"{_of(rater.screening)}{flag}", _of(rater.consistency), _percent(rater.left),
            "-" if seconds is None else f"{seconds:.0f}", str(rater.pace.num_below_floor),
        )  # fmt: skip
    return table


def _of(share: Estimate | None) -> str:
    return "-" if share is None else f"{share.value * share.n:.0f} of {share.n}"


def _percent(share: Estimate | None) -> str:
    return _interval(share, 1, 100)


def _interval(estimate: Estimate | None, digits: int, unit: float = 1) -> str:
    """A figure with its interval, as `55.6 [49.4, 61.7]`."""
    if estimate is None:
        return "-"
    value = f"{unit * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{unit * estimate.low:.{digits}f}, {unit * estimate.high:.{digits}f}]"
