"""Older captures of pages that a corpus holds more than once.

    spread     each document's capture goes to the part of its URL's hash
    compare    the captures of one URL: all but the newest go to the source of their sections
    mark       the sections of older captures get their outcome

Only documents with a date take part: of two texts without one nobody can tell the newer. A step is
one task for each source or part, so no task and no driver holds the URLs of a corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.corpus.exchange import read_part, split, write_parts
from humpback_ray.corpus.steps import Figures, Tasks, run_once
from humpback_ray.rows import DocumentFacts, DroppedSegment, SegmentOutcome

_CAPTURES = pa.schema({
    "url": pa.string(), "time": pa.string(), "document_id": pa.string(), "source": pa.int64(),
})  # fmt: skip
_OLDER = pa.schema({"document_id": pa.string()})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Captures:
    """The search; see the module.

    Args:
        folder: of the files between the steps.
        sections: folder of rows with a `document_id` and an `outcome`.
        documents: folder of `DocumentFacts`.
        sources: names of the files that hold the same documents in both folders.
    """

    folder: str
    sections: str
    documents: str
    sources: Sequence[Sequence[str]]
    num_parts: int

    def spread(self, number: int) -> Figures:
        """Divide a source's captures among the parts."""
        columns = ["url", "captured_at", "document_id"]
        groups = (
            facts.filter(pc.is_valid(facts["captured_at"]))
            for name in self.sources[number]
            for facts in tables.scan_row_groups(
                *tables.path_of_named(self.documents, name), columns
            )
        )
        table = pa.concat_tables([_no_facts(columns), *groups])
        hashes = [_hash(url) for url in table["url"].to_pylist()]
        captures = pa.table([
            pa.array(hashes, pa.string()),
            # A fraction of a second stands before the Z, which would sort behind it.
            pc.utf8_rtrim(table["captured_at"], "Z"), table["document_id"],
            pa.array(np.full(len(table), number)),
        ], schema=_CAPTURES)  # fmt: skip
        readers = np.array([int(h[:8], 16) % self.num_parts for h in hashes], np.int64)
        parts = split(captures, readers, self.num_parts)
        write_parts(self._path("spread", number), _CAPTURES, parts)
        return {}

    def compare(self, part: int) -> Figures:
        """Keep each URL's newest capture; of equally old ones that with the first id."""
        numbers = range(len(self.sources))
        captures = pa.concat_tables(read_part(self._path("spread", n), part) for n in numbers)
        order = [("url", "ascending"), ("time", "descending"), ("document_id", "ascending")]
        captures = captures.sort_by(order)
        urls = captures["url"].combine_chunks()
        is_same = pc.equal(urls.slice(1), urls.slice(0, max(len(urls) - 1, 0)))
        is_older = pa.concat_arrays([pa.array([False] * min(len(urls), 1), pa.bool_()), is_same])
        older = captures.filter(is_older)
        readers = older["source"].to_numpy()
        parts = split(older.select(["document_id"]), readers, len(self.sources))
        write_parts(self._path("compare", part), _OLDER, parts)
        return {"num_older": len(older)}

    def mark(self, number: int) -> Figures:
        """Write the outcome of the sections of a source's older captures."""
        files = [self._path("compare", part) for part in range(self.num_parts)]
        older = pa.concat_tables(read_part(file, number) for file in files)["document_id"]
        if len(older):
            for name in self.sources[number]:
                marked = tables.GrowingFile(self.sections, name, DroppedSegment)
                for rows in tables.scan_row_groups(*tables.path_of_named(self.sections, name)):
                    marked.add(_marked(rows, older))
                marked.close()
        return {}

    def _path(self, step: str, number: int) -> str:
        return storage.join(self.folder, step, f"{number}.arrow")


def mark_older_captures(search: Captures, tasks: Tasks) -> int:
    """Give every section of an older capture its outcome; returns the number of those captures.

    A second call goes on where a first one was killed.
    """

    def run(label: str, step: str, number: int) -> list[Figures]:
        items = [(item,) for item in range(number)]
        return tasks(label, partial(run_once, search.folder, search, step), items)

    run("captures spread", "spread", len(search.sources))
    num_older = sum(f["num_older"] for f in run("captures compared", "compare", search.num_parts))
    if num_older:
        run("older captures marked", "mark", len(search.sources))
    return num_older


def same_place(url: str) -> str:
    """A URL without what does not name another page: case of the host, default port, fragment."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url
    if not parts.hostname:
        return url
    shown = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    user = parts.netloc.rpartition("@")[0]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = f"{user}@{host}{shown}" if user else f"{host}{shown}"
    return parts._replace(netloc=netloc, path=parts.path or "/", fragment="").geturl()


def _no_facts(columns: list[str]) -> pa.Table:
    return tables.to_table([], DocumentFacts).select(columns)


def _hash(url: str) -> str:
    return hashlib.sha256(same_place(url).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _marked(sections: pa.Table, older: pa.ChunkedArray) -> pa.Table:
    is_older = pc.is_in(sections["document_id"], value_set=older)
    replaced = {"outcome": SegmentOutcome.OLDER_CAPTURE.value, "prompt_id": None,
                "shared_ngram": None}  # fmt: skip
    for name, value in replaced.items():
        place = sections.schema.get_field_index(name)
        column = pc.if_else(is_older, pa.scalar(value, pa.string()), sections[name])
        sections = sections.set_column(place, sections.schema.field(name), column)
    return sections
