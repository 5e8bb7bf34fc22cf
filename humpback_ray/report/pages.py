"""A document as one HTML file without any script, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from humpback_ray.report import foreign_text
from humpback_ray.report.document import Chart, Document, Excerpts, Paragraph, Section, Table


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("humpback_ray.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=foreign_text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {"table": Table, "chart": Chart, "paragraph": Paragraph, "excerpts": Excerpts}
    for name, kind in kinds.items():
        environment.tests[name] = lambda block, kind=kind: isinstance(block, kind)
    # The elements of a chart, which `charts.py` draws: the only markup that is not escaped.
    environment.filters["drawn"] = lambda chart: Markup(chart.svg)
    environment.filters["markdown"] = markdown_line
    return environment


def html(document: Document) -> str:
    """The page, which loads nothing and runs nothing."""
    return _environment().get_template("report.html").render(document=document)


def markdown(document: Document) -> str:
    """The tables and paragraphs; charts and samples are left to the page."""
    return _environment().get_template("report.md").render(document=document)


def markdown_sections(sections: Sequence[Section]) -> str:
    """The tables and paragraphs of some sections, from headings of the second level on."""
    return _environment().get_template("sections.md").render(sections=sections)


# What Markdown or the HTML in it would take for markup.
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"})


def markdown_line(text: str) -> str:
    """A text as one line of Markdown."""
    return " ".join(foreign_text.shown(text).split()).translate(_MARKDOWN)
