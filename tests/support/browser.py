"""A real headless Chromium, and pages that remember whatever they should not have done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: install Debian's package of that name")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class WatchedPage:
    """A page in a context of its own, with its console errors, dialogs, requests and answers."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.urls: list[str] = []
        self.answers: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("requestfinished", self._finished)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _finished(self, request: Any) -> None:
        self.answers.append(request.response().text())


@contextmanager
def opened(
    file: str, *, width: int = 1280, scheme: str = "light"
) -> Iterator[tuple[Any, WatchedPage]]:
    """A page from a file, and what it does; its own address is no request of it."""
    url = Path(file).as_uri()
    with chromium() as browser:
        seen = WatchedPage(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen.page.goto(url)
        seen.urls = [asked for asked in seen.urls if asked.split("#")[0] != url]
        yield seen.page, seen
