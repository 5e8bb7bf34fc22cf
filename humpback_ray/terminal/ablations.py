"""Tables of `humpback ablate`: what the arms share and what is to compute, and what came out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from humpback_ray.ablations.results import COLUMNS, notes, table_rows
from humpback_ray.terminal.output import say, show

if TYPE_CHECKING:
    from humpback_ray.ablations.plan import AblationPlan
    from humpback_ray.ablations.results import AblationResults


MAX_NAMED = 5  # stages of an arm from one place


def print_ablation_plan(plan: AblationPlan) -> None:
    """Print the stages of every arm by where they come from, then the command for each arm."""
    from humpback_ray.ablations.plan import origins

    columns = (Column("arm", no_wrap=True), "from", "stages")
    table = Table(*columns, title=escape(f"Ablations of {plan.run_folder}"))
    for number, planned in enumerate(plan.arms):
        name = planned.arm.name
        for origin, stages in origins(planned, plan.states).items():
            # The run comes first and names them all.
            is_known = number and len(stages) > MAX_NAMED
            named = f"{len(stages)}, the last is {stages[-1]}" if is_known else ", ".join(stages)
            table.add_row(name, escape(origin), escape(named))
            name = ""
        table.add_section()
    show(table)
    for line in plan.left_out:
        say(f"left out: {line}")
    arms = [planned.arm for planned in plan.arms if planned.arm.overrides]
    if arms:
        command = f"humpback run {shlex.quote(plan.recipe_name)} --run NEW"
        say(f"an arm's model by hand: {command}{_options(plan.overrides)}, and behind it for")
    for arm in arms:
        say(f"  {arm.name}:{_options(arm.overrides)}")
    say(f"{len(plan.to_compute)} stages to compute")


def _options(overrides: Sequence[str]) -> str:
    return "".join(f" --set {shlex.quote(each)}" for each in overrides)


def print_ablations(results: AblationResults, files: Sequence[str]) -> None:
    """Print every arm's figures, the lines below them, and the written files."""
    columns = (Column(COLUMNS[0], no_wrap=True), *COLUMNS[1:])
    table = Table(*columns, title=escape(f"Ablations of {results.run}"))
    for row in table_rows(results):
        table.add_row(*map(escape, row))
    show(table)
    for line in notes(results):
        say(line)
    for path in files:
        say(f"written: {path}")
