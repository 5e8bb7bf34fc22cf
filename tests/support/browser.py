"""A real browser on a page, with everything that the page tries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
NEEDS_CHROMIUM = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian's package chromium)"
)


@dataclass
class Seen:
    """What a page has tried since it opened."""

    requests: list[str] = field(default_factory=list)  # but for the page's own file
    dialogs: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)  # of the console, and script errors


@contextmanager
def opened(file: str, *, width: int = 1280, scheme: str = "light") -> Iterator[tuple[Any, Seen]]:
    """A page from a file, and what it tries; a dialog is closed at once."""
    from playwright.sync_api import sync_playwright

    url, seen = Path(file).as_uri(), Seen()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)

        def note_dialog(dialog: Any) -> None:
            seen.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("request", lambda r: r.url.split("#")[0] == url or seen.requests.append(r.url))
        page.on("dialog", note_dialog)
        page.on("console", lambda message: seen.messages.append(message.text))
        page.on("pageerror", lambda error: seen.messages.append(str(error)))
        page.goto(url)
        yield page, seen
        browser.close()
