"""Dropped rows on the terminal: a duplicate stands beside the text that it repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from humpback_ray.report.console import visible
from humpback_ray.terminal.output import console, say
from humpback_ray.terminal.runs import print_rows

if TYPE_CHECKING:
    from humpback_ray.report.look import Shown
    from humpback_ray.report.look_dropped import Repetition


def print_dropped(shown: Shown, repetitions: list[Repetition]) -> None:
    """Print dropped rows: as panels, or as two texts side by side."""
    if not repetitions:
        print_rows(shown)
        return
    for repetition in repetitions:
        table = Table("dropped", "kept", expand=True, show_lines=True, title_justify="left")
        facts = "  ".join(f"{name} {value}" for name, value in repetition.row.fields)
        table.title = Text(visible(f"{repetition.row.title}  {facts}"))
        table.columns[0].ratio = table.columns[1].ratio = 1
        table.add_row(Text(visible(repetition.dropped)), Text(visible(repetition.kept)))
        console.print(table)
    say(f"{len(repetitions)} of {shown.num_matching} rows in {shown.folder}")
