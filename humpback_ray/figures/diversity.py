"""Diversity and languages of instructions, and the places that segments come from."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from humpback_ray.figures.diversity_types import DiversityFigures, LanguageFigures, SourceFigures
from humpback_ray.figures.pair_sets import MAX_DRAWN, PairSet, RunRows, sets_of
from humpback_ray.figures.stage_rows import Hashes
from humpback_ray.method.diversity import Words
from humpback_ray.rows import Segment
from humpback_ray.stages.segments import Segments

NUM_SOURCES = 15
NUM_LANGUAGES = 8
# The detector itself corrects its guesses below this length, and errs for half of our short texts.
LANGUAGE_CHARACTERS = 150
# What decides a URL's source: scheme and host, or the first part of a path.
_START_OF_URL = r"^([\x00-\x20]*(?i:https?)://[^/?#]*|[^/]*)[\s\S]*$"


def diversity_of(rows: RunRows) -> list[DiversityFigures]:
    """Diversity of the seed's instructions, of A's, and of each selection's."""
    sets = sets_of(rows)
    number = min([MAX_DRAWN, *(pairs.size for pairs in sets.values() if pairs.size)])
    return [_diversity(name, pairs, number) for name, pairs in sets.items()]


def _diversity(name: str, pairs: PairSet, number: int) -> DiversityFigures:
    words = Words.of([instruction for instruction, _ in pairs.drawn(number)])
    n = words.num_texts
    return DiversityFigures(
        name,
        n,
        pairs.size,
        len(words.codes),
        (words.distinct(1), words.distinct(2), words.distinct(3)),
        words.near_duplicates() / n if n else None,
        pairs.num_repeated / pairs.size if pairs.size else None,
    )


# --- languages ------------------------------------------------------------------------------------


def languages_of(rows: RunRows) -> list[LanguageFigures]:
    """Languages of drawn instructions and responses of each set."""
    return [
        _languages(name, what, [pair[place] for pair in pairs.drawn()])
        for name, pairs in sets_of(rows).items()
        if pairs.size
        for place, what in enumerate(("instruction", "response"))
    ]


def _languages(name: str, what: str, texts: list[str]) -> LanguageFigures:
    from resiliparse.parse.lang import detect_fast

    asked = [text for text in texts if len(text) >= LANGUAGE_CHARACTERS]
    counts = Counter(detect_fast(text)[0] for text in asked)
    num_unknown = counts.pop("unknown", 0)
    shown = dict(counts.most_common(NUM_LANGUAGES))
    if rest := counts.total() - sum(shown.values()):
        shown["others"] = rest
    return LanguageFigures(name, what, len(asked), len(texts) - len(asked), num_unknown, shown)


# --- sources --------------------------------------------------------------------------------------


def sources_of(rows: RunRows) -> list[SourceFigures]:
    """The most frequent sources of the segments, and how many segments of each are selected."""
    segments = rows.records.first(Segments)
    if segments is None:
        return []
    chosen = _selected_segments(rows)
    every: Counter[str] = Counter()
    selected: Counter[str] = Counter()
    for hashes, batch in rows.folder(segments, Segment).scan(["url"]):
        starts = pc.replace_substring_regex(batch["url"], _START_OF_URL, r"\1")
        every.update(_counted(starts))
        if chosen is not None:
            selected.update(_counted(starts.filter(pa.array(_is_in(hashes, chosen)))))
    every, selected = _by_name(every), _by_name(selected)
    shown = every.most_common(NUM_SOURCES)
    num_shown = sum(count for _, count in shown)
    if num_shown < every.total():
        names = f"{len(every) - len(shown):,} others"
        selected[names] = selected.total() - sum(selected[name] for name, _ in shown)
        shown.append((names, every.total() - num_shown))
    return [
        SourceFigures(name, count, None if chosen is None else selected[name])
        for name, count in shown
    ]


def _counted(texts: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in texts.value_counts().to_pylist()}


def _by_name(starts: Counter[str]) -> Counter[str]:
    """Counts by the sources' names; hosts differ in case and ports."""
    names: Counter[str] = Counter()
    for start, count in starts.items():
        names[source_name(start)] += count
    return names


def _is_in(hashes: Hashes, chosen: Hashes) -> NDArray[np.bool_]:
    """As `np.isin`, which would sort the chosen ones again for every batch."""
    places = np.minimum(np.searchsorted(chosen, hashes), max(len(chosen) - 1, 0))
    return chosen[places] == hashes if len(chosen) else np.zeros(len(hashes), bool)


def _selected_segments(rows: RunRows) -> Hashes | None:
    """Segments of the last selection, sorted; None before there is one."""
    done = [iteration.curated for iteration in rows.records.iterations() if iteration.curated]
    if not done:
        return None
    candidates = rows.candidates
    return np.unique(candidates.segments[candidates.places(rows.selected(done[-1]).hashes)])


def source_name(url: str) -> str:
    """The host of a web page; of a file the first folder below the corpus, or its name."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return parts.hostname or "no host"
    except ValueError:  # a page may name anything
        return "no valid URL"
    return url.partition("/")[0]
