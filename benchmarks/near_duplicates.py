"""Near-duplicates found / near-duplicates planted, among a million generated documents.

Families of documents: an original and up to three versions of it with some words replaced, so that
the exact Jaccard index of the pair's 5-grams lies between 0.6 and 1. A fifth of the families shares
a template of 40% of the words. The search runs in a separate driver, as the stage `segments` runs
it, over a tenth of the documents and over all of them. The table has the time, the peak memory of
the driver and of the largest task, the share of the planted pairs with an index of at least 0.8 of
which one is dropped (recall), that share among pairs from 0.80 to 0.82 alone, and the share of the
dropped documents that are near the kept document that they name (precision).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import harness
import memory
import numpy as np
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.duplicates import NearDuplicateSettings
from humpback_ray.config.placement import Placement
from humpback_ray.corpus.near_duplicates import find_duplicates
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.stage import Context
from humpback_ray.method.duplicates import jaccard, shingles
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import Segment, SegmentOutcome
from humpback_ray.stages import searching, segments

NUM_DOCUMENTS = 1_000_000
DOCUMENTS_PER_FILE = 10_000
VERSIONS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3)  # of a family, drawn evenly
TEMPLATE_SHARE, TEMPLATED = 0.4, 5  # of a document's words; one of so many families
VOCABULARY = 50_000
SETTINGS = NearDuplicateSettings()


def family(number: int, vocabulary: np.ndarray, template: list[str]) -> list[str]:
    """The texts of a family, the original first."""
    random = np.random.default_rng(number)
    words = vocabulary[random.integers(VOCABULARY, size=random.integers(150, 350))].tolist()
    if number % TEMPLATED == 0:
        words = [*template, *words[: int(len(template) * (1 / TEMPLATE_SHARE - 1))]]
    texts = [" ".join(words)]
    for version in range(VERSIONS[random.integers(len(VERSIONS))]):
        changed = list(words)
        # A word replaced alone changes five n-grams of both texts: indices from about 0.6 up.
        num_changes = random.integers(1, len(words) // 20 + 1)
        for place in random.choice(len(words), num_changes, replace=False):
            changed[place] = f"new{number}x{version}x{place}"
        texts.append(" ".join(changed))
    return texts


def write_documents(folder: Path, num_documents: int) -> dict[str, np.ndarray]:
    """Write documents as sections; returns the planted pairs and their indices.

    A pair is (family, version): the version and the family's original.
    """
    random = np.random.default_rng(0)
    vocabulary = np.array([f"w{number:x}" for number in random.permutation(VOCABULARY)], object)
    template = vocabulary[random.integers(VOCABULARY, size=100)].tolist()
    pairs: list[tuple[int, int, float]] = []
    rows: list[Segment] = []
    number = num_written = 0
    while num_written + len(rows) < num_documents:
        texts = family(number, vocabulary, template)
        grams = frozenset(shingles(texts[0], SETTINGS.ngram))
        for version, text in enumerate(texts):
            if version:
                index = jaccard(grams, frozenset(shingles(text, SETTINGS.ngram)))
                pairs.append((number, version, index))
            rows.append(
                Segment(segment_id(text), text, "", f"{number:08}-{version}",
                        f"https://host{number % 1000}.example/{number}", 0, len(text),
                        SegmentOutcome.KEPT)
            )  # fmt: skip
        number += 1
        if len(rows) >= DOCUMENTS_PER_FILE or num_written + len(rows) >= num_documents:
            tables.write_rows(str(folder), rows, Segment, name=f"part-{num_written:010}")
            num_written += len(rows)
            rows = []
    families, versions, indices = zip(*pairs, strict=True)
    return {
        "family": np.array(families),
        "version": np.array(versions),
        "index": np.array(indices),
        "num_documents": np.array(num_written),
    }


def drive(folder: str, in_process: bool) -> Generator[dict[str, Any], Any, None]:
    """A driver in a separate process, which yields the seconds and peaks of memory of a search."""
    searched = segments.searched_sections(f"{folder}/_sections")
    tasks = memory.TaskMemory()
    if in_process:
        find = partial(_find_here, folder, searched)
    else:
        memory.start_ray()
        find = partial(searching.drop_duplicates, _context(folder), searched, SETTINGS)
    yield {}
    with tasks.watched():
        seconds, found = harness.timed(find)
    yield {
        "value": harness.peak_memory(),
        "task_mib": tasks.peak,
        "seconds": seconds,
        "compared_pairs": found.num_pairs,
    }


def _context(folder: str) -> Context:
    progress = StageProgress(Console(quiet=True), "segments")
    metrics = Metrics(f"{folder}/metrics.jsonl")
    return Context(str(Path(folder).parent), Path(folder).name, Placement(), progress, metrics)


def _find_here(folder: str, searched: searching.Searched) -> Any:
    """The same search with its tasks one after another in this process."""

    def tasks(label: str, work: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> list[Any]:
        seconds, results = harness.timed(lambda: [work(*item) for item in items])
        harness.console.print(f"    {label}: {len(items)} tasks, {seconds:.1f} s")
        return results

    rows_per_task = Placement().corpus.rows_per_task
    groups = searched.groups(rows_per_task, tasks)
    search = searching.Search(
        f"{folder}/work", f"{folder}/rows", f"{folder}/dropped", searched.row_type,
        searched.dropped_type, searched.columns, SETTINGS, searched.read, len(groups),
        -(-sum(number for _, number in groups) // rows_per_task),
    )  # fmt: skip
    return find_duplicates(search, [pieces for pieces, _ in groups], tasks)


def quality(folder: str, planted: dict[str, np.ndarray]) -> dict[str, float]:
    """Recall and precision of a finished search, from its rows."""
    kept = {row["document_id"]: row["segment_id"] for row in _rows(f"{folder}/rows")}
    names = zip(planted["family"].tolist(), planted["version"].tolist(), strict=True)
    is_found = np.array(
        [not {f"{n:08}-0", f"{n:08}-{version}"} <= kept.keys() for n, version in names]
    )
    is_near = planted["index"] >= SETTINGS.jaccard
    is_barely = is_near & (planted["index"] < SETTINGS.jaccard + 0.02)
    family_of = {content: name.partition("-")[0] for name, content in kept.items()}
    dropped = list(_rows(f"{folder}/dropped"))
    right = [
        family_of[row["duplicate_of"]] == row["document_id"].partition("-")[0]
        and row["jaccard"] >= SETTINGS.jaccard
        for row in dropped
    ]
    return {
        "near_pairs": int(is_near.sum()),
        "found_pairs": int((is_found & is_near).sum()),
        "recall": float(is_found[is_near].mean()),
        "recall_from_080_to_082": float(is_found[is_barely].mean()),
        "dropped": len(dropped),
        "precision": float(np.mean(right)),
    }


def _rows(folder: str) -> Iterator[dict[str, Any]]:
    for batch in tables.scan(folder):
        names = ("document_id", "segment_id", "duplicate_of", "jaccard")
        yield from batch.select([n for n in names if n in batch.schema.names]).to_pylist()


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--documents", type=int, default=NUM_DOCUMENTS)
    parser.add_argument(
        "--in-process", action="store_true", help="no Ray: one task after another, in the driver"
    )
    options = parser.parse_args()
    over, under = (f"{n:,} documents" for n in (options.documents, options.documents // 10))
    driver = memory.of_driver(over, under)
    found = harness.Comparison("near-duplicates", "pairs", "found", "planted", 0.95)
    with harness.scratch_folder() as scratch:
        for side, num_documents in ((under, options.documents // 10), (over, options.documents)):
            folder = scratch / f"{num_documents}"
            planted = write_documents(folder / "_sections", num_documents)
            figures = memory.figures_of(drive, str(folder), options.in_process)
            measured = quality(str(folder), planted)
            driver.add(side, **figures, **measured)
        found.add("planted", value=measured["near_pairs"])
        found.add("found", value=measured["found_pairs"])
    harness.finish([driver, found], options.json)


if __name__ == "__main__":
    main()
