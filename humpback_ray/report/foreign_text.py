"""Text from the web, from models and from files, made safe to show: nothing hidden, nothing run.

Jinja2 escapes markup. What it lets through is here: controls that change what a reader sees, texts
that are too long, and links that run code.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from humpback_ray.report.console import CONTROLS

MAX_NAME = 160  # characters of a title, a URL or a setting
MAX_LINK = 2_000


def shown(text: str) -> str:
    """A text with each control as its code point: ⟪U+202E⟫ for a right-to-left override."""
    text = text.replace("\r\n", "\n")
    return CONTROLS.sub(lambda match: f"⟪U+{ord(match[0]):04X}⟫", text)


def finalize(value: Any) -> Any:
    """A value as a template prints it: every text is `shown`, before Jinja2 escapes it."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def cut(text: str, limit: int = MAX_NAME) -> str:
    """A name in one line, cut at its end."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[:limit]}…"


def link(url: str) -> str:
    """The URL if a browser may open it, which runs code for `javascript:` and `data:`; else ''."""
    if len(url) > MAX_LINK or CONTROLS.search(url) or any(c.isspace() for c in url):
        return ""
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return ""
    return url if is_web else ""
