"""Records of WARC archives."""

from __future__ import annotations


def page(url: str, html: str, date: str = "", headers: str = "", truncated: str = "") -> bytes:
    """A response with status 200, not compressed.

    Args:
        headers: more HTTP headers, each with its line end.
    """
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n{html}".encode()
    lines = [
        "WARC/1.0", "WARC-Type: response", f"WARC-Target-URI: {url}",
        *([f"WARC-Date: {date}"] if date else []),
        *([f"WARC-Truncated: {truncated}"] if truncated else []),
        "Content-Type: application/http; msgtype=response", f"Content-Length: {len(block)}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"
