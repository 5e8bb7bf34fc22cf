"""Bodies of archived HTTP responses without their transfer and content encodings."""

from __future__ import annotations

import io
import re
import zlib
from typing import Any

from fastwarc.stream_io import BrotliReader, ZstdReader

# Bytes of a page. Common Crawl cuts pages at 5 MiB, and a few kilobytes can decode to gigabytes.
MAX_PAGE = 2**24
MAX_ENCODINGS = 3  # one inside another: more than any server sends

_PIECE = 2**18
_SLICE = 2**12  # of compressed bytes: what follows a gzip member in its slice is copied
_GZIP = 31  # as zlib's `wbits`
_MEMBER_START = b"\x1f\x8b\x08"


def decoded_body(body: bytes, transfer_encoding: str, content_encoding: str) -> bytes:
    """A body as the server had it before it encoded it for transport.

    Many archives hold bodies that their writer has decoded under headers that it has left as they
    were. So a body that is HTML already is taken as it is.

    Args:
        body: as the archive has it.
        transfer_encoding, content_encoding: the response's headers, or "".

    Raises:
        OSError, ValueError: the body is not encoded as its headers say, or is above MAX_PAGE.
    """
    encodings = [name.strip().lower() for name in content_encoding.split(",")]
    encodings = [name for name in encodings if name not in ("", "identity", "none")]
    if len(encodings) > MAX_ENCODINGS:
        raise ValueError(
            f"{len(encodings)} content encodings, and at most {MAX_ENCODINGS} are read"
        )
    try:
        if "chunked" in transfer_encoding.lower():
            body = _joined(body)
        for name in reversed(encodings):
            body = _decoded(body, name)
    except (OSError, ValueError):
        if not _is_html(body):
            raise
    if len(body) > MAX_PAGE:
        raise ValueError(f"a page of {len(body):,} bytes, and at most {MAX_PAGE:,} are read")
    return body


def _is_html(body: bytes) -> bool:
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


# FastWARC's reader of chunks refuses extensions, and gives nothing of a body that was cut.
_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_CUT_SIZE = re.compile(rb"[ \t]*[0-9a-fA-F]{0,16}[ \t]*(?:;[^\r\n]*)?\r?")


def _joined(body: bytes) -> bytes:
    """The chunks of a body as one; of a body that is cut, those that are there.

    Raises:
        ValueError: no chunk begins where one should.
    """
    content = bytearray()
    place = 0
    while size := _SIZE.match(body, place):
        begin = size.end()
        end = begin + int(size[1], 16)
        if begin == end:
            return bytes(content)
        content += body[begin:end]
        place = end + 2
        if body[end:place] not in (b"\r\n", b"\r", b""):
            raise ValueError("a chunk does not end where its size says")
    if not content or not _CUT_SIZE.fullmatch(body, place):
        raise ValueError("a chunk has no size")
    return bytes(content)


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        return _inflated(body, _GZIP)
    if encoding == "deflate":
        # The standard means the zlib format, and some servers send what is inside it.
        is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflated(body, wbits=15 if is_zlib else -15)
    if encoding == "br":
        return _limited(BrotliReader(io.BytesIO(body)))
    if encoding == "zstd":
        return _limited(ZstdReader(io.BytesIO(body)))
    raise ValueError(f"content encoding {encoding!r}")


def _inflated(body: bytes, wbits: int) -> bytes:
    """The content of a body; of a gzip file, that of all members (RFC 1952, section 2.2).

    Of a body that is cut, the content before the cut. Bytes behind a member are ignored if they
    begin no other member.

    Raises:
        ValueError: a member is damaged, or the body or its content is above MAX_PAGE.
    """
    if len(body) > MAX_PAGE:  # by members without content, if not by its content
        raise ValueError(
            f"it has {len(body):,} bytes before it is decoded, and at most {MAX_PAGE:,} are read"
        )
    content = bytearray()
    rest = memoryview(body)
    member = zlib.decompressobj(wbits)
    try:
        while rest and len(content) <= MAX_PAGE:
            piece = rest[:_SLICE]
            content += member.decompress(piece, MAX_PAGE + 1 - len(content))
            rest = rest[len(piece) - len(member.unused_data) :]
            if member.eof:
                if wbits != _GZIP or rest[: len(_MEMBER_START)] != _MEMBER_START:
                    break
                member = zlib.decompressobj(wbits)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return _within_limit(bytes(content))


def _limited(reader: Any) -> bytes:
    content = b""
    while len(content) <= MAX_PAGE and (piece := reader.read(_PIECE)):
        content += bytes(piece)
    return _within_limit(content)


def _within_limit(content: bytes) -> bytes:
    if len(content) > MAX_PAGE:
        raise ValueError(f"it decodes to more than {MAX_PAGE:,} bytes")
    return content
