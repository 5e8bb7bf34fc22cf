"""The raters' page: its files, and the same page as one file without a server."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people.study import Study

STYLE, SCRIPT = '<link rel="stylesheet" href="/page.css">', '<script src="/page.js"></script>'
# Nothing from elsewhere, no script in a text, no place that turns text into HTML.
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src {server}; "
    "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)


@cache
def content(name: str) -> str:
    """The text of one of the page's files."""
    return (resources.files(__package__) / "page" / name).read_text("utf-8")


def server_policy() -> str:
    """The content security policy of the page as the server sends it."""
    policy = POLICY.format(script="'self'", style="'self'", server="'self'")
    return f"{policy}; frame-ancestors 'none'"


def as_file(study: Study, rater: str) -> str:
    """A rater's page as one HTML file that asks nothing of any server."""
    style, script = content("page.css"), content("page.js")
    policy = POLICY.format(script=_source(script), style=_source(style), server="'none'")
    # Text that ends the element early would become part of the page.
    data = json.dumps(study.payload(rater)).replace("<", "\\u003c")
    page = content("page.html")
    assert page.count(STYLE) == page.count(SCRIPT) == 1
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    body = f'<script id="data" type="application/json">{data}</script>\n<script>{script}</script>'
    return page.replace(STYLE, head).replace(SCRIPT, body)


def _source(text: str) -> str:
    """An inline style or script as a policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def write_files(study: Study, file: str) -> dict[str, str]:
    """Write a page for each rater; returns its file by rater.

    Args:
        file: its name where there is one rater; of several each gets `-RATER` before `.html`.

    Raises:
        UserError: the file's name does not end in .html, or it cannot be written.
    """
    stem = file.removesuffix(".html")
    if stem == file:
        raise UserError(f"--file {file}: give the page a name that ends in .html")
    raters = list(study.sheets)
    files = {r: file if len(raters) == 1 else f"{stem}-{r}.html" for r in raters}
    for rater, path in files.items():
        with storage.explained(path):
            storage.write_text(storage.absolute(path), as_file(study, rater))
    return files
