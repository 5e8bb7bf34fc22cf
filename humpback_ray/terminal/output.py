"""The console, and the ways to print to it."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from humpback_ray.report.console import Console

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


def show(thing: Table | Panel) -> None:
    """Print a table or a panel. A table breaks words wider than its column.

    Rich would cut them off otherwise, and names with them.
    """
    for column in thing.columns if isinstance(thing, Table) else ():
        column.overflow = "fold"
    console.print(thing)


def say_aside(line: str) -> None:
    """Print a line to stderr, beside the output that programs read."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


def say_error(label: str, message: str) -> None:
    """Print `label: message` as one line to stderr."""
    line = f"[bold red]{label}:[/] {escape(message)}"
    Console(stderr=True, soft_wrap=True).print(line, highlight=False)
