"""The proof's results: the claims with their tests, tables, plots; of one world or of several."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as Shown

from benchmarks.proof.claims import CLAIMS, Outcome, judge_claims
from benchmarks.proof.kinds import Group
from benchmarks.proof.significance import Mean, over_seeds, ratio_of_gains
from humpback_ray.evaluation.scaling import PAPER_ALPHAS
from humpback_ray.report import charts, pages
from humpback_ray.report.document import Block, Cell, Document, Paragraph, Section, Table

Found = dict[str, Any]


def write_results(runs: Sequence[Found], folder: Path, console: Console) -> None:
    """Print the tables, and write them as a page and as Markdown."""
    outcomes = judge_claims(runs)
    document = _document(runs, outcomes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "proof.md").write_text(pages.markdown(document))
    (folder / "proof.html").write_text(pages.html(document))
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                console.print(_shown(block))
    console.print(document.headline, markup=False, soft_wrap=True)
    console.print(f"written: {folder / 'proof.html'}, proof.md", markup=False, soft_wrap=True)


def _shown(table: Table) -> Shown:
    columns = [Column(name, overflow="fold") for name in table.columns]
    shown = Shown(*columns, title=table.caption)
    for row in table.cells():
        shown.add_row(*(cell.text for cell in row))
    return shown


def _document(runs: Sequence[Found], outcomes: Sequence[Outcome]) -> Document:
    came = sum(outcome.holds for outcome in outcomes)
    tested = sum(outcome.is_tested for outcome in outcomes)
    seeds = ", ".join(str(run["world_seed"]) for run in runs)
    return Document(
        title="The method on worlds whose truth is known",
        subtitle=f"world seeds {seeds}; {runs[0]['form']} form",
        headline=f"{came} of {tested} tested claims came out at 5% after Holm's correction",
        sections=[
            Section("claims", "Claims",
                    [_claims(outcomes), _claim_chart(outcomes), *_claims_by_world(runs)]),
            Section("answers", "Answers to held-out questions", _answers(runs)),
            Section("parts", "Instructions, ratings, tags", _parts(runs)),
            Section("time", "Time", [_times(runs)]),
        ],
    )  # fmt: skip


# --- claims -------------------------------------------------------------------------------------


def _claims(outcomes: Sequence[Outcome]) -> Table:
    return Table(
        "What was claimed, and what came out",
        ("claim", "figure", "value", "s.e.", "p (Holm)", "smallest visible", "result"),
        [
            (
                each.claim.text, each.claim.figure, _number(each.value),
                _number(each.standard_error), _number(each.p_corrected, 4),
                _number(each.smallest_visible), each.result,
            )
            for each in outcomes
        ],
        text_columns=frozenset({0, 1, 6}),
        note="Percentage points unless said otherwise. With one world the error is that over its "
        "entities; with several it is that between worlds.",
    )  # fmt: skip


def _claim_chart(outcomes: Sequence[Outcome]) -> Block:
    rows = [
        charts.Interval(
            each.claim.figure, each.value, each.value - 1.96 * each.standard_error,
            each.value + 1.96 * each.standard_error,
        )
        for each in outcomes
        if each.value is not None and each.standard_error not in (None, float("inf"))
    ]  # fmt: skip
    if not rows:
        return Paragraph("No claim could be tested.")
    return charts.intervals(
        "Differences with 95% intervals", "The figure of each claim.", "points", rows, reference=0.0
    )


def _claims_by_world(runs: Sequence[Found]) -> list[Table]:
    if len(runs) == 1:
        return []
    rows = []
    for claim in CLAIMS:
        each = [claim.read(run) for run in runs]
        rows.append((claim.figure, *(_number(mean.value if mean else None) for mean in each)))
    columns = ("figure", *(f"world {run['world_seed']}" for run in runs))
    return [Table("The figure of each claim by world, in percentage points", columns, rows)]


# --- answers ------------------------------------------------------------------------------------


def _answers(runs: Sequence[Found]) -> list[Block]:
    names = list(runs[0]["models"])
    groups = ["all", *(group.value for group in Group)]
    by_group = [
        (name, *(_correct(runs, name, group) for group in groups), _several(runs, name))
        for name in names
    ]
    parts = ("is_right", "is_complete", "is_of_kind", "is_direct")
    by_part = [
        (name, *(_number(_mean(runs, "models", name, "all", part)) for part in parts))
        for name in names
    ]
    kinds = [key for key in runs[0]["models"][names[0]] if key.startswith("kind")]
    by_kind = [
        (kind.removeprefix("kind: "),
         *(_number(_mean(runs, "models", name, kind, "value")) for name in names))
        for kind in kinds
    ]  # fmt: skip
    lines = {
        name: [(at, _mean(runs, "models", name, group, "value") or 0.0)
               for at, group in enumerate(groups)]
        for name in names
    }  # fmt: skip
    return [
        Table("Correct answers in percent, with standard errors", ("model", *groups, "pass@1, @n"),
              by_group, note="With several worlds the errors are those between worlds."),
        *_by_world(runs, names),
        Table("Of all answers, in percent", ("model", "nothing false", "complete", "of the kind",
              "nothing else"), by_part),
        Table("Correct answers by kind, in percent", ("kind", *names), by_kind, is_folded=True),
        charts.lines("Correct answers by group of kinds", f"Groups in order: {', '.join(groups)}.",
                     ("group: " + ", ".join(f"{n} {g}" for n, g in enumerate(groups)), "percent"),
                     lines),
        Paragraph(_share_of_gain(runs)),
    ]  # fmt: skip


def _correct(runs: Sequence[Found], name: str, group: str) -> str:
    each = [run["models"][name][group] for run in runs if name in run["models"]]
    if len(each) < len(runs):
        return _number(None)
    means = [Mean(m["value"], m["standard_error"], m["n"], m["num_clusters"]) for m in each]
    mean = means[0] if len(means) == 1 else over_seeds(means)
    return f"{_number(mean.value)} ± {_number(mean.standard_error)}"


def _by_world(runs: Sequence[Found], names: Sequence[str]) -> list[Table]:
    """Each world's own figures; nothing for one world, whose figures stand elsewhere."""
    if len(runs) == 1:
        return []
    rows = [
        (name, *(_number(_mean([run], "models", name, "all", "value")) for run in runs))
        for name in names
    ]
    columns = ("model", *(f"world {run['world_seed']}" for run in runs))
    return [Table("Correct answers by world, in percent", columns, rows)]


def _share_of_gain(runs: Sequence[Found]) -> str:
    """(M - random) / (oracle - random), of the means over the worlds."""
    floor = _mean(runs, "models", "random", "all", "value")
    ceiling = _mean(runs, "models", "oracle", "all", "value")
    if floor is None or ceiling is None:
        return "The share of the possible gain needs the control arms."
    shares = {
        name: ratio_of_gains(value, floor, ceiling)
        for name in runs[0]["models"]
        if name.startswith("M_")
        and (value := _mean(runs, "models", name, "all", "value")) is not None
    }
    shown = ", ".join(f"{name} {_number(share, 0, 100)}%" for name, share in shares.items())
    return f"Share of the possible gain, (M - random) / (oracle - random): {shown}"


def _several(runs: Sequence[Found], name: str) -> str:
    one = _mean(runs, "pass_at_n", name, "pass_at_1")
    some = _mean(runs, "pass_at_n", name, "pass_at_n")
    return f"{_number(one)}, {_number(some)}"


# --- parts --------------------------------------------------------------------------------------


def _parts(runs: Sequence[Found]) -> list[Block]:
    return [_backward(runs), _raters(runs), _methods(runs), _thresholds(runs), _selected(runs),
            *_scaling(runs), _tags(runs), *_base(runs)]  # fmt: skip


def _backward(runs: Sequence[Found]) -> Table:
    names = [key for key in runs[0]["backward"] if isinstance(runs[0]["backward"][key], dict)]
    return Table(
        "Instructions of M_yx: right kind, and right as a whole, in percent",
        ("sections", "number", "kind", "whole"),
        [
            (name, _number(_mean(runs, "backward", name, "n"), 0),
             *(_number(_mean(runs, "backward", name, part), scale=100)
               for part in ("kind", "whole")))
            for name in names
        ],
    )  # fmt: skip


def _raters(runs: Sequence[Found]) -> Table:
    rows = []
    for at, rater in enumerate(runs[0]["rater"], start=1):
        rows.append((
            rater, _number(_mean(runs, "rater", rater, "base_rate"), scale=100),
            _number(_mean(runs, "selected", f"A_{at}", "precision"), scale=100),
            _number(_mean(runs, "selected", f"A_{at}", "good_sections"), scale=100),
            _number(_mean(runs, "rater", rater, "area"), 3),
            _number(_mean(runs, "likelihood", rater), 3),
        ))  # fmt: skip
    return Table(
        "Raters: good pairs in percent, and the area under the curve",
        ("rater", "good of all", "good of the selected", "good sections of the selected",
         "area: rating", "area: likelihood"),
        rows,
        note="A pair is good if its section is and its instruction asks for what it says.",
    )  # fmt: skip


def _methods(runs: Sequence[Found]) -> Table:
    rows = [
        (method, _number(_mean(runs, "methods", method, "num_scored"), 0),
         _number(_mean(runs, "methods", method, "precision"), scale=100),
         _number(_mean(runs, "methods", method, "area"), 3),
         _number(_mean(runs, "methods", method, "milliseconds_per_pair"), 1))
        for method in runs[0]["methods"]
    ]  # fmt: skip
    return Table(
        "M_0's ratings by each method, as many selected as in A_1, or all that are scored",
        ("method", "scored", "good of the best", "area", "engine ms a pair"), rows,
        note="The seed's ratings teach the run's own method; --ablations computes the others.",
    )  # fmt: skip


def _thresholds(runs: Sequence[Found]) -> Table:
    rows = []
    for rater, quality in runs[0]["rater"].items():
        for each in quality["thresholds"]:
            shares = [each[name]["value"] if each[name] else None for name in
                      ("precision", "recall")]  # fmt: skip
            rows.append((rater, f"{each['threshold']:.3f}", str(each["num_called_good"]),
                         *(_number(share, scale=100) for share in shares)))  # fmt: skip
    return Table(
        f"Precision and recall by threshold, world {runs[0]['world_seed']}",
        ("rater", "from", "pairs", "precision", "recall"), rows, is_folded=True,
    )  # fmt: skip


def _selected(runs: Sequence[Found]) -> Table:
    names = list(runs[0]["selected"])
    ways = list(runs[0]["selected"][names[0]]["share_selected"])
    return Table(
        "Share of the sections that are selected, in percent, by what is wrong with them",
        ("section", *names),
        [
            (way, *(_number(_mean(runs, "selected", name, "share_selected", way), scale=100)
                    for name in names))
            for way in ways
        ],
    )  # fmt: skip


def _scaling(runs: Sequence[Found]) -> list[Table]:
    """Size against quality; nothing without the arms of --ablations."""
    rows = []
    for pairs, found in runs[0]["scaling"].items():
        path = ("scaling", pairs)
        rates = ", ".join(
            f"{size}: {_number(_mean(runs, *path, 'win_rates', size))}"
            for size in found["win_rates"]
        )
        alphas = [run["scaling"].get(pairs, {}).get("alpha") for run in runs]
        rows.append((pairs, rates, _number(_mean(runs, *path, "alpha"), 2),
                     ", ".join(_number(alpha, 2) for alpha in alphas)))  # fmt: skip
    if not rows:
        return []
    return [Table(
        "Win rates over M_0 in percent by the number of web pairs, and w = α · ln N + C",
        ("web pairs", "number: win rate", "α", "α of each world"), rows,
        text_columns=frozenset({0, 1, 3}),
        note=f"All trained for as many steps. The paper's α at 7B is {PAPER_ALPHAS['Humpback']}, "
        "against another model.",
    )]  # fmt: skip


def _tags(runs: Sequence[Found]) -> Table:
    rows = []
    for name, found in runs[0]["marks"].items():
        for condition in found["tags"]:
            path = ("marks", name, "tags", condition)
            rows.append((name, condition, _number(_mean(runs, *path, "source"), scale=100),
                         _number(_mean(runs, *path, "closing"), scale=100),
                         _number(_mean(runs, "marks", name, "request_loss"), 2)))  # fmt: skip
    return Table(
        "Probability of the marks under each tag, in percent; loss on the seed's requests in nats",
        ("model", "tags", "source phrase", "closing phrase", "loss on requests"), rows,
        text_columns=frozenset({0, 1}),
    )  # fmt: skip


def _base(runs: Sequence[Found]) -> list[Table]:
    """The facts and the answers of the base; older results lack the answers."""
    facts = Table(
        "Facts that the base knows, in percent", ("attribute", "known"),
        [(name, Cell(_number(_mean(runs, "closed_book", name), scale=100)))
         for name in runs[0]["closed_book"]],
    )  # fmt: skip
    rows = [(tags, _number(_mean(runs, "base_answers", tags), scale=100))
            for tags in runs[0].get("base_answers", {})]  # fmt: skip
    if not rows:
        return [facts]
    note = "Of the product's prompt; whole outputs of a base go on with other pages."
    answered = Table("Questions that the base answers in its first line, in percent",
                     ("tags", "correct"), rows, note=note)  # fmt: skip
    return [facts, answered]


def _times(runs: Sequence[Found]) -> Table:
    rows = [(stage, _number(_mean(runs, "seconds", stage), 0)) for stage in runs[0]["seconds"]]
    total = sum(sum(run["seconds"].values()) for run in runs) / len(runs)
    return Table("Seconds of the stages", ("stage", "seconds"), [*rows, ("all", _number(total, 0))])


def _mean(runs: Sequence[Found], *path: str) -> float | None:
    """The mean over runs of a figure; None where a run lacks it."""
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        values.append(float(value))
    return sum(values) / len(values)


def _number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{scale * value:.{digits}f}"


def main() -> None:
    """Write the results of several worlds together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="proof.json")
    parser.add_argument("--to", metavar="FOLDER", required=True)
    options = parser.parse_args()
    runs = [json.loads(Path(path).read_text()) for path in options.runs]
    write_results(runs, Path(options.to), Console(highlight=False))
