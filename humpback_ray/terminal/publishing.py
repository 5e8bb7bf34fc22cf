"""Lines of `humpback push`: every file with its size, by the repository that it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from humpback_ray.report.console import visible
from humpback_ray.terminal.output import say

if TYPE_CHECKING:
    from humpback_ray.publishing.plan import Repository


def print_push(repositories: Sequence[Repository]) -> None:
    """Print the files of each repository with their bytes, the card's place, and the total."""
    for repository in repositories:
        say(f"{repository.kind} {repository.repo_id}")
        for file in repository.files:
            say(f"  {file.num_bytes:>15,}  {visible(file.path)}")
        say(f"  its card: {repository.files[0].location}")
    total = sum(repository.num_bytes for repository in repositories)
    say(f"{total:,} bytes in {len(repositories)} repositories")
