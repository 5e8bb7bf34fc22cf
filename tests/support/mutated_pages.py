"""Pages as the web has them at its worst: real markup, mutated, with a seed for each page."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable

import pyarrow as pa
from fastwarc.stream_io import BrotliWriter

WORDS = [
    "whale", "song", "ocean", "krill", "Größe", "café", "Москва", "日本語", "naïve", "x<y", "&amp;",
    "&#x2603;", "&nbsp;", "1,000", "don’t",
]  # fmt: skip
TAGS = [
    "p", "div", "span", "h1", "h2", "h3", "ul", "ol", "li", "dl", "dt", "dd", "table", "tr", "td",
    "th", "pre", "code", "a", "b", "i", "font", "button", "select", "option", "form", "input",
    "svg", "object", "article", "section", "nav", "header", "footer", "blockquote", "br", "hr",
    "template", "math", "ruby", "rt", "details", "summary", "iframe", "noscript", "textarea",
]  # fmt: skip
ATTRIBUTES = (
    'class="linenos"', "hidden", 'style="display:none"', "colspan=9007199254740992", "rowspan=0",
    "start=-1", "value=99999999999", 'role="navigation"', "href='#'", "class=headerlink", 'a"b=1',
    "=", "title='>'", "aria-hidden=true",
)  # fmt: skip
ENCODINGS = (
    "utf-8",
    "latin-1",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "koi8-r",
    "shift-jis",
    "utf-32",
)
CHARSETS = ("utf-8", "iso-8859-1", "windows-1251", "shift_jis", "utf-16", "nothing", "iso-2022-jp")

HOSTILE: dict[str, Callable[[], str]] = {
    "ten megabytes in one attribute": lambda: f"<h1>A</h1><p title='{'x' * 10**7}'>text",
    "a hundred thousand attributes": lambda: f"<p {' '.join(f'a{n}=1' for n in range(10**5))}>x",
    "ten thousand nested divs": lambda: "<div>" * 10_000 + "x",
    "ten thousand nested tables": lambda: "<table><tr><td>" * 10_000 + "x",
    "ten thousand nested lists": lambda: "<ul><li>x" * 10_000,
    "wide cells": lambda: "<table>" + "<tr><td colspan=9007199254740992 rowspan=99999>a" * 10_000,
    "a word of a megabyte": lambda: "<h1>A</h1>" + "x" * 10**6,
    "a megabyte of tags": lambda: "<p>a" * 2**18,
    "open brackets": lambda: "<" * 10**6,
    "ampersands": lambda: "&" * 10**6,
    "buttons in a header": lambda: f"<h1>{'<button>x</button>' * 20_000}</h1>",
    "links below many elements": lambda: "<div>" * 5000 + "<a class=headerlink>x</a>" * 20_000,
    "hidden paragraphs": lambda: "<p style='display:none'>a" * 30_000,
    "lines of code as elements": lambda: "<pre>" + "<div>\n" * 40_000,
    "options": lambda: "<select>" + "<option>a" * 30_000,
    "open fonts": lambda: "".join(f"<font color={n}>" for n in range(2000)) + "<p>x" * 2000,
    "open comments": lambda: "<!--" * 10**5,
    "combining marks": lambda: "<h1>A</h1>a" + "\u0301\u0316" * 10**5,
    "line breaks": lambda: "<h1>A</h1>" + "<br>" * 90_000,
    "headers": lambda: "".join(f"<h{n}>A{n}</h{n}>b" for n in range(1, 7)) * 8_000,
}


def mutated_page(seed: int) -> tuple[bytes, list[str]]:
    """The body of a response, and its headers after the status line."""
    choose = random.Random(seed)
    data = _page(choose).encode(choose.choice(ENCODINGS), "replace")
    for _ in range(choose.choice((0, 0, 1, 3))):
        data = _mutated(data, choose)
    charset = choose.choice((None, None, *CHARSETS))
    kind = choose.choice(("text/html", "text/html", "application/xhtml+xml"))
    headers = [f"Content-Type: {kind}{f'; charset={charset}' if charset else ''}"]
    encoding = choose.choice((None, None, None, "gzip", "br", "chunked", "deflate", "zstd"))
    if encoding == "chunked":
        headers.append("Transfer-Encoding: chunked")
    elif encoding:
        headers.append(f"Content-Encoding: {encoding}")
    data = _encoded(data, encoding, choose)
    if choose.random() < 0.1:
        data = _mutated(data, choose)
    return data, headers


def _page(choose: random.Random) -> str:
    pieces = [f"<meta charset={choose.choice(CHARSETS)}>"] if choose.random() < 0.3 else []
    for _ in range(choose.randrange(1, 300)):
        kind = choose.random()
        if kind < 0.4:
            pieces.append(" ".join(choose.choices(WORDS, k=choose.randrange(1, 40))))
        elif kind < 0.75:
            attribute = choose.choice(("", "", *ATTRIBUTES))
            pieces.append(f"<{choose.choice(TAGS)} {attribute}{choose.choice(('', '', '/'))}>")
        elif kind < 0.78:
            pieces.append(choose.choice(("<![CDATA[", "]]>", "<!--", "-->", "noai")))
        else:
            pieces.append(f"</{choose.choice(TAGS)}>")
    return choose.choice(("", " ", "\n")).join(pieces)


def _mutated(data: bytes, choose: random.Random) -> bytes:
    begin = choose.randrange(len(data) + 1)
    end = min(len(data), begin + choose.randrange(200))
    return choose.choice([
        lambda: data[:begin],
        lambda: data[:begin] + data[end:],
        lambda: data[:begin] + choose.randbytes(end - begin) + data[end:],
        lambda: data[:begin] + data[begin:end] * 50 + data[end:],
        lambda: data[:begin] + b"\0" * choose.randrange(1, 100) + data[begin:],
        lambda: data[:begin] + b"<" + data[end:],
        lambda: choose.randbytes(len(data)),
    ])()  # fmt: skip


def _encoded(data: bytes, encoding: str | None, choose: random.Random) -> bytes:
    if choose.random() < 0.1:
        return data  # under a header that says otherwise
    if encoding == "gzip":
        return gzip.compress(data, mtime=0)
    if encoding == "br":
        buffer = io.BytesIO()
        with BrotliWriter(buffer) as writer:
            writer.write(data)
        return buffer.getvalue()
    if encoding == "deflate":
        return zlib.compress(data)
    if encoding == "zstd":
        return pa.compress(data, codec="zstd", asbytes=True)
    if encoding == "chunked":
        size = choose.randrange(1, 1000)
        chunks = [data[begin : begin + size] for begin in range(0, len(data), size)]
        extension = choose.choice((b"", b" ", b";a=b"))
        return b"".join(
            b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in [*chunks, b""]
        )
    return data


def gzip_bomb(num_mib: int) -> bytes:
    """A body of a thousandth of the MiB that it decodes to."""
    compressor = zlib.compressobj(wbits=31)
    pieces = [compressor.compress(bytes(2**20)) for _ in range(num_mib)]
    return b"".join([*pieces, compressor.flush()])


def gzip_bomb_of_members(num_mib: int) -> bytes:
    """A body of many members, each of a MiB, that decodes to as many MiB."""
    return gzip.compress(bytes(2**20), mtime=0) * num_mib


def gzip_members_without_content(num_bytes: int) -> bytes:
    """A body of at most as many bytes that costs time and decodes to nothing."""
    member = gzip.compress(b"", mtime=0)
    return member * (num_bytes // len(member))
