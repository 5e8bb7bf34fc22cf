"""The web of the world: sections on HTML pages, packed as WARC, and the truth of each section."""

from __future__ import annotations

import gzip
import html
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.proof.facts import Attribute, World
from benchmarks.proof.kinds import Kind, Question, draw_open_question, instruction
from benchmarks.proof.spoiling import Section, Spoiling, draw_spoiling, near_copy, write_section
from humpback_ray.method.filters import segment_id

GOOD_SHARE = 0.25
COPY_SHARE = 0.10
SECTIONS_PER_PAGE = 8
# Another last word leaves the 5-grams of a text of 22 words 0.89 alike, safely above 0.8.
MIN_WORDS_OF_COPIED = 22

_HEADERS = (
    "About {s}", "More on {s}", "{s} in short", "Notes on {s}", "A page about {s}",
    "What we know of {s}",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """The truth of one section, found by the id that the product gives its text."""

    segment_id: str
    text: str
    question: Question
    instruction: str  # the question in its first wording
    spoiling: Spoiling
    grade: int
    is_good: bool
    is_copy: bool


def draw_sections(world: World, number: int, drawn: random.Random) -> list[Section]:
    """Sections in random order, no text twice; of every kind as many good ones."""
    num_copies = round(number * COPY_SHARE)
    num_good = round((number - num_copies) * GOOD_SHARE)
    lists = [each for each in world.lists if each not in world.asked_lists]
    sections: dict[str, Section] = {}
    kinds = tuple(Kind)
    while len(sections) < number - num_copies:
        at = len(sections)
        kind = kinds[at % len(kinds)]
        question = draw_open_question(world, kind, world.entities, lists, drawn)
        spoiling = Spoiling.NONE if at < num_good else draw_spoiling(drawn)
        section = write_section(world, question, spoiling, drawn)
        sections.setdefault(segment_id(section.text), section)
    originals = list(sections.values())
    whole = [each for each in originals if each.text.endswith(".")]
    long = [each for each in whole if len(each.text.split()) >= MIN_WORDS_OF_COPIED]
    found = originals + [near_copy(each) for each in drawn.sample(long, num_copies)]
    drawn.shuffle(found)
    return found


def truth_of(section: Section) -> Truth:
    """The row of a section in the table of truths."""
    return Truth(
        segment_id(section.text), section.text, section.question, instruction(section.question, 0),
        section.spoiling, section.grade, section.is_good, section.is_copy,
    )  # fmt: skip


# --- pages --------------------------------------------------------------------------------------


def pages(sections: Sequence[Section], drawn: random.Random) -> Iterator[tuple[str, str]]:
    """(url, HTML) of pages that hold the sections, each under a header.

    The page's own header is in capitals, so the product drops the whole page and takes the
    sections below it.
    """
    for number, first in enumerate(range(0, len(sections), SECTIONS_PER_PAGE)):
        part = sections[first : first + SECTIONS_PER_PAGE]
        body = "\n".join(
            f"<h2>{html.escape(_header(each.question, drawn))}</h2>\n"
            f"<p>{html.escape(each.text)}</p>"
            for each in part
        )
        yield (
            f"http://animals.example/{number:04}.html",
            "<!DOCTYPE html>\n<html><head><title>The book of animals</title>"
            "<script>var page = 1;</script></head>\n<body><nav><a href='/'>Start</a></nav>\n"
            f"<h1>THE BOOK OF ANIMALS</h1>\n{body}\n<footer>Made by hand</footer></body></html>\n",
        )


def _header(question: Question, drawn: random.Random) -> str:
    """A title that names a subject and not what is asked about it."""
    subject = drawn.choice(question.entities) if question.entities else "a list"
    return drawn.choice(_HEADERS).format(s=subject)


def write_warc(path: Path, found: Iterable[tuple[str, str]]) -> None:
    """Write pages as the response records of a WARC file, each compressed on its own."""
    with path.open("wb") as file:
        for url, page in found:
            file.write(gzip.compress(_record(url, page.encode()), mtime=0))


def _record(url: str, page: bytes) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


# --- the table of truths ------------------------------------------------------------------------


def write_truths(path: Path, truths: Iterable[Truth]) -> None:
    """Write the truths as JSON lines."""
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in truths))


def read_truths(path: Path) -> dict[str, Truth]:
    """Truths by segment_id."""
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return {
        row["segment_id"]: Truth(
            **{**row, "question": read_question(row["question"]),
               "spoiling": Spoiling(row["spoiling"])}
        )
        for row in rows
    }  # fmt: skip


def read_question(row: Mapping[str, Any]) -> Question:
    """A question as `asdict` and JSON leave it."""
    return Question(
        Kind(row["kind"]), tuple(row["entities"]),
        tuple(Attribute(each) for each in row["attributes"]), row["value"],
    )  # fmt: skip
