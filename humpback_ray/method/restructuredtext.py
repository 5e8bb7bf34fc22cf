"""reStructuredText as HTML, by docutils without anything that reaches outside of the text."""

from __future__ import annotations

from typing import Any

from docutils.core import publish_parts
from docutils.parsers.rst import Directive, directives

from humpback_ray.method.page_limits import refuse_excess_of_restructuredtext

_SETTINGS = {
    "_disable_config": True,  # no file of settings of the machine's
    "file_insertion_enabled": False,
    "raw_enabled": False,
    # Unknown directives and roles, Sphinx's among them, leave their text out or as it is.
    "report_level": 5,
    "halt_level": 5,
    "doctitle_xform": False,  # the first header is a header
    "syntax_highlight": "none",
    "embed_stylesheet": False,
}


class _NoDate(Directive):
    """`date` would write today's date, and a segment's text must be the same tomorrow."""

    has_content = True

    def run(self) -> list[Any]:
        return []


directives.register_directive("date", _NoDate)


def html_of_restructuredtext(text: str) -> str:
    """The body of the page that docutils makes of a text.

    Raises:
        ValueError: the text is too large, or docutils cannot read it.
    """
    refuse_excess_of_restructuredtext(text)
    try:
        parts = publish_parts(text, writer="html5", settings_overrides=_SETTINGS)
    except RecursionError as error:
        raise ValueError("its reStructuredText is nested too deeply") from error
    except Exception as error:  # docutils states none, and the text is foreign
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"docutils cannot read its reStructuredText: {reason}") from error
    # docutils writes notes and footnotes as asides, which pages have for what is beside their text.
    return str(parts["html_body"]).replace("<aside ", "<div ").replace("</aside>", "</div>")
