"""Duplicates in a corpus of any size: the order of the steps, and what their tasks count.

The caller brings `tasks`, which runs a function on many items: as Ray tasks in a stage. A task
whose figures are on disk is not run again, so a search that was killed goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from humpback_ray.corpus.duplicate_steps import Search
from humpback_ray.corpus.steps import Figures, Tasks, run_once

# Not given in any source; a corpus of which this much is one text or one host's is worth a look.
MAX_CLUSTER_SHARE = 0.2  # of all rows, in one cluster
MAX_HOST_SHARE = 0.5  # of one host's rows
MIN_ALARM_ROWS = 100  # fewer rows give no alarm


@dataclass(frozen=True)
class Found:
    """Counts of a finished search."""

    num_searched: int  # rows, without those that needed no search
    outcomes: Counter[str]  # of every row that was read
    num_pairs: int  # that were compared
    num_near: int  # of which the texts are near-duplicates
    clusters: list[tuple[str, int]]  # kept texts with their numbers of repetitions, largest first
    hosts: list[tuple[str, int, int]]  # that lose most of their rows: name, rows, lost rows
    counts: Counter[str]  # those of `Search.read`

    @property
    def alarms(self) -> list[str]:
        """A line for each cluster or host that loses an unusual part of its rows."""
        lines = [
            f"{count} of {self.num_searched} rows repeat the text {content} (duplicate_of)"
            for content, count in self.clusters
            if self.num_searched >= MIN_ALARM_ROWS and count > MAX_CLUSTER_SHARE * self.num_searched
        ]
        lines += [
            f"{num_lost} of {num_rows} rows of {host} are duplicates"
            for host, num_rows, num_lost in self.hosts
        ]
        return lines


def find_duplicates(
    search: Search, sources: Sequence[Any], tasks: Tasks, max_rows: int | None = None
) -> Found:
    """Write the rows of all sources, kept or dropped as duplicates or as surplus.

    Args:
        sources: what `search.read` takes, for one task each.
        max_rows: the most rows to keep: a random sample by hashes, and the same one wherever the
            rows lie.
    """
    assert len(sources) == search.num_sources

    def run(label: str, step: str, items: Sequence[tuple[Any, ...]]) -> list[Figures]:
        return tasks(label, partial(run_once, search.folder, search, step), items)

    parts = [(part,) for part in range(search.num_parts)]
    figures = run("sources read", "partition", list(enumerate(sources)))
    figures += run("parts indexed", "index", parts)
    run("parts paired", "pair", parts)
    pairs = run("texts carried", "carry", parts)
    near = run("parts compared", "verify", parts)
    turn, settled = _settle(search, run)
    last = None
    if max_rows is not None and sum(found["num_kept"] for found in settled) > max_rows:
        last = _last_place(search, run, turn, max_rows)
    figures += run("parts written", "finish", [(*part, turn, last) for part in parts])
    return Found(
        sum(found.get("num_rows", 0) for found in figures),
        _total(figures, "outcomes"),
        sum(found["num_pairs"] for found in pairs),
        sum(found["num_near"] for found in near),
        _largest(figures),
        _hosts(search, run),
        _total(figures, "counts"),
    )


Run = Callable[[str, str, Sequence[tuple[Any, ...]]], list[Figures]]


def _settle(search: Search, run: Run) -> tuple[int, list[Figures]]:
    """The last round of decisions, and its figures. Each round decides the first open row."""
    turn = 0
    while True:
        items = [(part, turn) for part in range(search.num_parts)]
        figures = run("parts decided", "settle", items)
        if not any(found["num_open"] for found in figures):
            return turn, figures
        turn += 1


def _last_place(search: Search, run: Run, turn: int, max_rows: int) -> str:
    """The place of the last row of a sample."""
    items = [(part, turn) for part in range(search.num_parts)]
    length = max(found["length"] for found in run("kept texts placed", "place", items))
    [found] = run("end of the sample found", "last", [(max_rows, length)])
    return str(found["place"])


def _total(figures: list[Figures], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for found in figures:
        total.update(found.get(name, {}))
    return total


def _largest(figures: list[Figures]) -> list[tuple[str, int]]:
    total: Counter[str] = Counter()
    for found in figures:
        total.update(dict(found["largest"]))
    return sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[:3]


def _hosts(search: Search, run: Run) -> list[tuple[str, int, int]]:
    if not search.columns.url:
        return []
    items = [(part, MIN_ALARM_ROWS, MAX_HOST_SHARE) for part in range(search.num_parts)]
    found = [tuple(host) for part in run("hosts counted", "hosts", items) for host in part["hosts"]]
    return sorted(found, key=lambda host: (-host[2], host[0]))[:3]
