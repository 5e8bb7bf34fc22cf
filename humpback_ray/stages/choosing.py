"""The choice among rated pairs as a part of a stage, by tasks that hold a bounded number of pairs.

    spread       the scores of a group of files, to the parts of their segments' hashes
    compare      the pairs of a part that may be chosen: one candidate of each segment
    thresholds   the k at which some shares of them are chosen
    last_ranked  the last pair that the method chooses, where it chooses by rank
    last_drawn   the last pair of those that `max_pairs` draws
    give         the chosen pairs of a part, to the groups of their files
    write        the rows of a group's chosen pairs

`spread` and `write` run for each group, `compare` and `give` for each part. The others are one task
each, which passes over the parts one after the other and holds few of their pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.corpus.exchange import read_part, split, write_parts
from humpback_ray.corpus.order_statistics import (
    nth_smallest,
    of_floats,
    of_texts,
    to_floats,
    to_text,
)
from humpback_ray.corpus.steps import Figures, Tasks, run_once
from humpback_ray.method import rating, selection

PAIRS_PER_GROUP = 250_000  # of about 500 bytes each in a task of `compare`

_SCORES = pa.schema({
    "candidate_id": pa.string(), "segment_id": pa.string(), "score": pa.float64(),
    "group": pa.int64(),
})  # fmt: skip
_ELIGIBLE = pa.schema({"candidate_id": pa.string(), "score": pa.float64(), "group": pa.int64()})
_CHOSEN = pa.schema({"candidate_id": pa.string()})


@dataclass(frozen=True)
class Choice:
    """A choice among the rows of a rating.

    Args:
        rated: folder of `RatedPair` rows.
        folder: of the files between the steps; the caller deletes it.
        groups: files of `rated`, for one task each. There are as many parts.
    """

    rated: str
    folder: str
    groups: Sequence[Sequence[str]]
    settings: SelectionSettings

    # --- steps ------------------------------------------------------------------------------------

    def spread(self, group: int) -> Figures:
        """Divide the pairs with a score among the parts."""
        columns = ["candidate_id", "segment_id", "score"]
        files = self.groups[group]
        batches = [batch for _, batch in tables.scan_ahead(self.rated, columns, files)]
        table = pa.Table.from_batches(batches).select(columns)
        table = table.filter(pc.is_valid(table["score"]))
        table = table.append_column("group", pa.array(np.full(len(table), group))).cast(_SCORES)
        readers = np.array(
            [crc32(name.encode()) % len(self.groups) for name in table["segment_id"].to_pylist()],
            np.int64,
        )
        write_parts(self._path("spread", group), _SCORES, split(table, readers, len(self.groups)))
        scores = table["score"].to_pylist()
        tenths = Counter(map(rating.tenths, scores))
        return {
            "num_scored": len(scores),
            "sum": sum(scores),
            "tenths": {str(tenth): number for tenth, number in tenths.items()},
        }

    def compare(self, part: int) -> Figures:
        """Write one candidate of each segment."""
        table = pa.concat_tables(
            read_part(self._path("spread", group), part) for group in range(len(self.groups))
        )
        ids, scores = table["candidate_id"].to_pylist(), table["score"].to_pylist()
        groups = dict(zip(ids, table["group"].to_pylist(), strict=True))
        assert len(groups) == len(ids), f"candidate_id is not unique in {self.rated}"
        scored = zip(ids, table["segment_id"].to_pylist(), scores, strict=True)
        pairs = selection.eligible(scored, self.settings)
        names, best = [name for name, _ in pairs], [score for _, score in pairs]
        columns = [names, best, [groups[name] for name in names]]
        eligible = pa.table([pa.array(c, f.type) for c, f in zip(columns, _ELIGIBLE, strict=True)],
                            schema=_ELIGIBLE)  # fmt: skip
        write_parts(self._path("eligible", part), _ELIGIBLE, [eligible])
        return {
            "num_eligible": len(pairs),
            "num_at_least_k": sum(score >= self.settings.k for score in best),
            "scores": [min(best), max(best)] if best else [],
            "id_bytes": max((len(name.encode()) for name in names), default=0),
        }

    def thresholds(self, num_eligible: int) -> Figures:
        """As `selection.thresholds`."""

        def keys() -> Iterator[np.ndarray]:
            return (of_floats(-scores)[:, None] for _, scores, _ in self._eligible())

        def ranked(place: int) -> float:
            return -float(to_floats(nth_smallest(keys, place))[0])

        return selection.thresholds(num_eligible, ranked)

    def last_ranked(self, num_chosen: int, num_words: int) -> Figures:
        """The place in the rank of the last pair that is chosen."""

        def keys() -> Iterator[np.ndarray]:
            for ids, scores, _ in self._eligible():
                yield np.column_stack([of_floats(-scores), of_texts(ids, num_words)])

        score, *name = nth_smallest(keys, num_chosen - 1)
        return {"rank": [float(to_floats(score)), to_text(np.array(name))]}

    def last_drawn(self, num_drawn: int, rank: list[Any] | None) -> Figures:
        """The draw key of the last pair that is drawn."""
        num_words = 8  # hexadecimal digits of SHA-256

        def keys() -> Iterator[np.ndarray]:
            for part in range(len(self.groups)):
                chosen = self._chosen(part, selection.Edge.of(rank, None))
                yield of_texts([selection.draw_key(name) for name, _, _ in chosen], num_words)

        return {"draw": to_text(nth_smallest(keys, num_drawn - 1))}

    def give(self, part: int, rank: list[Any] | None, draw: str | None) -> Figures:
        """The chosen pairs of a part, for the groups that hold their rows."""
        chosen = self._chosen(part, selection.Edge.of(rank, draw))
        ids = pa.table([pa.array([name for name, _, _ in chosen], pa.string())], schema=_CHOSEN)
        readers = np.array([group for _, _, group in chosen], np.int64)
        write_parts(self._path("chosen", part), _CHOSEN, split(ids, readers, len(self.groups)))
        scores = [score for _, score, _ in chosen]
        return {"num_chosen": len(scores), "sum": sum(scores), "lowest": min(scores, default=None)}

    def write(self, group: int, target: str, change: Callable[[pa.Table], pa.Table]) -> Figures:
        """Write the rows of a group's chosen pairs, under names that are the same in every attempt.

        Args:
            change: makes the rows to write of `RatedPair` rows.
        """
        chosen = pa.concat_tables(
            read_part(self._path("chosen", part), group) for part in range(len(self.groups))
        )["candidate_id"]
        read = tables.scan_ahead(self.rated, None, self.groups[group])
        num_rows = 0
        for number, (_, batches) in enumerate(groupby(read, itemgetter(0))):
            found = [batch.filter(pc.is_in(batch["candidate_id"], chosen)) for _, batch in batches]
            rows = pa.Table.from_batches(found)
            if len(rows):
                tables.write_table(target, change(rows), f"part-{group:05}-{number:05}")
                num_rows += len(rows)
        return {"num_rows": num_rows}

    # --- what steps share -------------------------------------------------------------------------

    def _path(self, step: str, number: int) -> str:
        return storage.join(self.folder, step, f"{number}.arrow")

    def _eligible(self) -> Iterator[tuple[list[str], np.ndarray, list[int]]]:
        """Ids, scores and groups of the pairs of each part."""
        for part in range(len(self.groups)):
            yield self._eligible_of(part)

    def _eligible_of(self, part: int) -> tuple[list[str], np.ndarray, list[int]]:
        table = read_part(self._path("eligible", part))
        scores = table["score"].to_numpy()
        return table["candidate_id"].to_pylist(), scores, table["group"].to_pylist()

    def _chosen(self, part: int, edge: selection.Edge) -> list[tuple[str, float, int]]:
        ids, scores, groups = self._eligible_of(part)
        rows = zip(ids, scores.tolist(), groups, strict=True)
        return [row for row in rows if selection.is_chosen(row[0], row[1], self.settings, edge)]


@dataclass(frozen=True)
class Compared:
    """The pairs of a rating, one of each segment compared with the others of it.

    Args:
        run: runs a step of the choice on some items.
    """

    choice: Choice
    run: Callable[[str, str, Sequence[tuple[Any, ...]]], list[Figures]]
    num_scored: int
    sum_of_scores: float
    tenths: Counter[int]  # numbers of scores by `rating.tenths`
    parts: list[Figures]  # of `Choice.compare`

    @property
    def num_eligible(self) -> int:
        """The number of segments with a score."""
        return sum(part["num_eligible"] for part in self.parts)

    def thresholds(self) -> dict[str, float]:
        """As `selection.thresholds`."""
        if not self.num_eligible:
            return {}
        [found] = self.run("thresholds found", "thresholds", [(self.num_eligible,)])
        return dict(found)

    def write(self, target: str, change: Callable[[pa.Table], pa.Table]) -> dict[str, Any]:
        """Write the rows of the chosen pairs; returns figures.

        Raises:
            UserError: nothing is chosen, with the scores there are and the ways out.
        """
        settings, run = self.choice.settings, self.run
        scores = [score for part in self.parts for score in part["scores"]]
        num_at_least_k = sum(part["num_at_least_k"] for part in self.parts)
        num_chosen = selection.num_chosen(self.num_eligible, num_at_least_k, settings)
        selection.refuse_none(num_chosen, self.num_eligible, scores, settings)
        rank = draw = None
        if selection.is_by_rank(settings):
            num_words = -(-max(part["id_bytes"] for part in self.parts) // 8)
            [last] = run("last pair found", "last_ranked", [(num_chosen, num_words)])
            rank = last["rank"]
        if settings.max_pairs is not None and settings.max_pairs < num_chosen:
            num_chosen = settings.max_pairs
            [last] = run("end of the draw found", "last_drawn", [(num_chosen, rank)])
            draw = last["draw"]
        numbers = range(len(self.choice.groups))
        given = run("pairs chosen", "give", [(part, rank, draw) for part in numbers])
        written = run("pairs written", "write", [(group, target, change) for group in numbers])
        assert num_chosen == sum(part["num_chosen"] for part in given)
        assert num_chosen == sum(found["num_rows"] for found in written)
        return {
            "num_scored": self.num_scored,
            "num_segments": self.num_eligible,
            "num_selected": num_chosen,
            "lowest_selected_score": round(
                min(part["lowest"] for part in given if part["num_chosen"]), 4
            ),
            "mean_selected_score": round(sum(part["sum"] for part in given) / num_chosen, 4),
            "mean_score": round(self.sum_of_scores / self.num_scored, 4),
        }


def compared(rated: str, folder: str, settings: SelectionSettings, tasks: Tasks) -> Compared:
    """The first half of a choice.

    A second call goes on where a first one was killed, and so does `Compared.write`.

    Args:
        rated: folder of `RatedPair` rows.
        folder: of the files between the steps; the caller deletes it.
        tasks: runs a function on many items: as Ray tasks in a stage.
    """
    choice = Choice(rated, folder, list(tables.groups_of_files(rated, PAIRS_PER_GROUP)), settings)

    def run(label: str, step: str, items: Sequence[tuple[Any, ...]]) -> list[Figures]:
        return tasks(label, partial(run_once, folder, choice, step), items)

    numbers = [(number,) for number in range(len(choice.groups))]
    spread = run("scores read", "spread", numbers)
    tenths: Counter[int] = Counter()
    for found in spread:
        tenths.update({int(tenth): number for tenth, number in found["tenths"].items()})
    return Compared(
        choice, run, sum(found["num_scored"] for found in spread),
        sum(found["sum"] for found in spread), tenths, run("scores compared", "compare", numbers),
    )  # fmt: skip
