"""The table of `humpback push`: every file, its size, and the repository that it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from humpback_ray.terminal.output import say, show

if TYPE_CHECKING:
    from humpback_ray.publishing.plan import Repository


def print_push(repositories: Sequence[Repository]) -> None:
    """Print every file of every repository, then the cards' places and the total."""
    table = Table("repository", "file", title="What goes to the hub")
    table.add_column("bytes", justify="right")
    for repository in repositories:
        name = f"{repository.kind} {repository.repo_id}"
        for file in repository.files:
            table.add_row(escape(name), escape(file.path), f"{file.num_bytes:,}")
            name = ""
        table.add_section()
    show(table)
    for repository in repositories:
        say(f"card: {repository.files[0].location}")
    total = sum(repository.num_bytes for repository in repositories)
    say(f"{total:,} bytes in {len(repositories)} repositories")
