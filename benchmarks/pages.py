"""Pages/s of one core from an archive to filtered segments / pages/s of FastWARC and Resiliparse.

Seconds are processor seconds, so that other work on the machine counts little.

The pages are the READMEs of the installed packages as HTML, with the menus and footers of a
documentation site around them, in one WARC file. Three sides read it, in turns, each in a separate
process: ours (archive, charset, extraction, segments, filters), the bare libraries (archive,
charset, plain text), and datatrove with its WARC reader and Trafilatura, in the environment whose
Python `HUMPBACK_DATATROVE_PYTHON` names. Beside the rates stand the shares of the pages' table
cells, and of their indented lines of code with their indentation, that each side's text has.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import harness
from fastwarc.warc import ArchiveIterator, WarcRecordType
from markdown_it import MarkdownIt
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import segments_of
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.installed_packages import file_of_package, package_names, read_package
from humpback_ray.corpus.readers import read_documents
from humpback_ray.method.segmenting import Cutting, sections_of_html

OURS, BARE, DATATROVE = "ours", "FastWARC and Resiliparse", "datatrove and Trafilatura"
VARIABLE = "HUMPBACK_DATATROVE_PYTHON"
NUM_PAGES = 2000
MIN_READ = 0.9  # of the pages that datatrove must read
WHOLE = Cutting(2**40)  # a page as few sections: for the texts, not for the times

SITE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>{name}</title>
<script>var page = "{name}";</script><style>nav {{ float: left }}</style></head><body>
<nav><ul>{menu}</ul></nav><div class="content" role="main">{body}</div>
<aside><h3>On this page</h3><ul>{menu}</ul></aside>
<footer><p>Built with a generator. <a href="/imprint">Imprint</a></p></footer></body></html>"""


def page_of(name: str, markdown: str) -> str:
    """A README as a page of a documentation site."""
    menu = "".join(f'<li><a href="/{number}">Chapter {number}</a></li>' for number in range(30))
    body = MarkdownIt("commonmark").enable("table").render(markdown)
    return SITE.format(name=name, menu=menu, body=body)


def write_archive(path: Path, num_pages: int) -> list[str]:
    """Write an archive as Common Crawl's, of as many pages; returns the different ones."""
    documents = [read_package(file_of_package(name)) for name in package_names()]
    texts = [d for d in documents if d.format == "markdown" and d.content.strip()]
    pages = [page_of(document.url, document.content) for document in texts]
    with path.open("wb") as file:
        for number in range(num_pages):
            file.write(gzip.compress(record_of(number, pages[number % len(pages)])))
    return pages


def record_of(number: int, page: str) -> bytes:
    """A page as a record of a WARC file."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    block = http + page.encode("utf-8", "replace")
    return (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>\r\n"
        f"WARC-Target-URI: http://host{number % 100}.example/{number}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


# --- the sides ----------------------------------------------------------------------------------


def ours(archive: str) -> Generator[Any, Any, None]:
    """Seconds to make segments of the archive; for a message, the text of each page."""
    [file] = list_files(archive)
    settings = CorpusSettings(path=archive)
    wants_texts = yield {}
    while True:
        if wants_texts:
            documents = read_documents(file, settings)
            wants_texts = yield [
                "\n\n".join(section.text for section in sections_of_html(d.content, WHOLE))
                for d in documents
            ]
        else:
            seconds, num_rows = _timed(lambda: sum(1 for _ in segments_of(file, settings)))
            wants_texts = yield {"seconds": seconds, "num_segments": num_rows}


def bare(archive: str) -> Generator[Any, Any, None]:
    """Seconds to extract the archive's pages; for a message, the text of each page."""
    wants_texts = yield {}
    while True:
        seconds, texts = _timed(lambda: list(_bare_texts(archive)))
        wants_texts = yield texts if wants_texts else {"seconds": seconds}


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """The processor seconds of a call, and its result."""
    began = time.process_time()
    value = function()
    return time.process_time() - began, value


def _bare_texts(archive: str) -> Generator[str, None, None]:
    with open(archive, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            body = record.reader.read()
            yield extract_plain_text(bytes_to_str(body, detect_encoding(body)))


# Runs in the environment of datatrove, which has none of our packages.
_DATATROVE = """
import json, os, sys
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
import trafilatura  # before the process that runs it is forked

folder, output = sys.argv[1:]
began = sum(os.times()[:4])  # with Trafilatura's child process
pages = WarcReader(folder).run()
texts = {d.metadata["url"]: d.text for d in Trafilatura(timeout=60).run(pages)}
seconds = sum(os.times()[:4]) - began
json.dump({"seconds": seconds, "texts": texts}, open(output, "w"))
"""


def datatrove(python: str, archive: Path, num_pages: int) -> tuple[float, list[str]]:
    """Processor seconds of datatrove's pipeline without its start, and the text of each page.

    Raises:
        SystemExit: it gave no text of most pages, as where a library that it needs is absent: it
            goes on then, and its rate would mean nothing.
        CalledProcessError: it failed; its output says why.
    """
    output = archive.parent.parent / "datatrove.json"
    command = [python, "-c", _DATATROVE, str(archive.parent), str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(output.read_text())
    if len(found["texts"]) < MIN_READ * num_pages:
        raise SystemExit(
            f"datatrove read {len(found['texts'])} of {num_pages} pages: see its warnings above, "
            f"and mend the environment of {VARIABLE}"
        )
    urls = (f"http://host{number % 100}.example/{number}" for number in range(num_pages))
    return found["seconds"], [found["texts"].get(url, "") for url in urls]


# --- what a text keeps --------------------------------------------------------------------------


def retention(pages: list[str], texts: list[str]) -> dict[str, float]:
    """Shares of the table cells and of the indented lines of code that the texts have."""
    kept: dict[str, list[bool]] = {"cells": [], "indented_lines": []}
    for page, text in zip(pages, texts, strict=False):
        body = HTMLTree.parse(page).body
        words, lines = " ".join(text.split()), {line.rstrip() for line in text.split("\n")}
        cells = [" ".join((cell.text or "").split()) for cell in _elements(body, "td")]
        kept["cells"] += [cell in words for cell in cells if cell]
        code = [line for pre in _elements(body, "pre") for line in (pre.text or "").split("\n")]
        kept["indented_lines"] += [
            line.rstrip() in lines for line in code if line[:1].isspace() and line.strip()
        ]
    return {name: sum(found) / max(len(found), 1) for name, found in kept.items()}


def _elements(body: Any, tag: str) -> list[Any]:
    return list(body.get_elements_by_tag_name(tag))


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--pages", type=int, default=NUM_PAGES)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    python = os.environ.get(VARIABLE)
    over_peer = harness.Comparison("pages of one core", "pages/s", OURS, DATATROVE, 3)
    over_bare = harness.Comparison("pages of one core", "pages/s", OURS, BARE, 0.8)
    with harness.scratch_folder() as scratch, ExitStack() as sides:
        archive = scratch / "archive/pages.warc.gz"
        archive.parent.mkdir()
        pages = write_archive(archive, options.pages)
        kept = {}
        running: dict[str, harness.Side] = {}
        for side, function in ((OURS, ours), (BARE, bare)):
            running[side] = sides.enter_context(closing(harness.Side(function, str(archive))))
            running[side].next()
            kept[side] = retention(pages, running[side].next("texts"))
        for _ in range(options.repeats):
            for side, process in running.items():
                figures = process.next()
                rate = options.pages / figures["seconds"]
                over_bare.add(side, value=rate, **figures)
                if side == OURS:
                    over_peer.add(side, value=rate, **figures)
            if python:
                seconds, texts = datatrove(python, archive, options.pages)
                over_peer.add(DATATROVE, value=options.pages / seconds, seconds=seconds)
                kept[DATATROVE] = retention(pages, texts)
    for side, shares in kept.items():
        shown = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        harness.console.print(f"  kept by {side}: {shown}")
    if not python:
        harness.console.print(f"  datatrove left out: {VARIABLE} names no Python with it")
    harness.finish([*([over_peer] if python else []), over_bare], options.json, retention=kept)


if __name__ == "__main__":
    main()
