"""`humpback report RUN`: the figures of a run as a page, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.evaluation.rater_quality import read_labels
from humpback_ray.execution.clock import duration
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import RunFigures
from humpback_ray.figures.verbs import load_parser
from humpback_ray.report import pages
from humpback_ray.report.comparison import Comparison, compare, comparison_document
from humpback_ray.report.document import Document, KeyFigure, Section
from humpback_ray.report.excerpts import LIMITS, samples_section
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.sections import sections_of
from humpback_ray.report.wording import count

FOLDER = "report"  # in the run's folder
MAX_PAGE_BYTES = 395_000  # a page that is mailed stays below 400 KB


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report, and its answer."""

    page: str
    figures: str
    markdown: str
    headline: str


def report_run(
    run_folder: str, labels: str | None, out: str | None, parser: str | None = None
) -> WrittenReport:
    """Write the report of a run; returns its files.

    Args:
        run_folder: absolute path or URL.
        labels: file of people's labels, for the raters' precision and recall.
        out: folder for the files; None: `report` in the run's folder.
        parser: a spaCy model for root verbs and objects; None: an installed one of English, and
            the report goes on without one.

    Raises:
        UserError: no such run, no such labels, no such parser, or a folder that cannot be read
            or written.
    """
    if parser:
        load_parser(parser)
    figures = figures_of(run_folder, read_labels(labels) if labels else None, parser)
    folder = out or storage.join(run_folder, FOLDER)
    return _write(folder, document_of(figures), asdict(figures))


def report_two(first: str, second: str, out: str | None) -> WrittenReport:
    """Write the comparison of two runs; returns its files.

    Args:
        first: absolute path or URL of a run, like `second`.
        second: the run whose changes are shown.
        out: folder for the files; None: `report-A-B` in the working folder.
    """
    comparison = compare(figures_of(first), figures_of(second))
    names = f"report-{storage.name(first)}-{storage.name(second)}"
    folder = out or storage.absolute(names)
    return _write(folder, comparison_document(comparison), _plain(comparison))


def _plain(comparison: Comparison) -> dict[str, Any]:
    content = asdict(comparison)
    for side in ("first", "second"):  # their own reports have the rows
        content[side]["samples"] = []
    return content


def document_of(figures: RunFigures) -> Document:
    """The report of a run, with texts of samples as long as the page's size lets them be."""
    sections = sections_of(figures)
    for limit in LIMITS:
        document = _document(figures, [*sections, *samples_section(figures, limit)])
        if len(pages.html(document).encode()) <= MAX_PAGE_BYTES:
            break
    return document


def _document(figures: RunFigures, sections: Sequence[Section]) -> Document:
    finished = max((stage.finished_at for stage in figures.stages), default="")
    parts = [f"recipe {figures.recipe}" if figures.recipe else "", figures.state,
             f"attempt {figures.attempt}", finished.replace("T", " ")]  # fmt: skip
    return Document(
        cut(figures.run),
        cut(" · ".join(part for part in parts if part)),
        figures.headline,
        sections,
        _key_figures(figures),
    )


def _key_figures(figures: RunFigures) -> list[KeyFigure]:
    """The figures of the summary: from documents to examples, and the time."""
    steps = {step.name: step.num_kept for step in figures.funnel}
    names = {"Documents": "documents with segments", "Segments": "segments",
             "Instructions": "instructions written"}  # fmt: skip
    counts = [KeyFigure(count(steps[name]), text) for name, text in names.items() if name in steps]
    selected = [
        KeyFigure(count(scores.num_selected), f"selected, iteration {scores.iteration}")
        for scores in figures.scores
        if scores.num_selected is not None
    ]
    seconds = sum(stage.seconds or 0.0 for stage in figures.stages)
    return [*counts, *selected, KeyFigure(duration(seconds), "of work")]


def _write(folder: str, document: Document, content: dict[str, Any]) -> WrittenReport:
    names = ("report.html", "report.json", "report.md")
    page, figures, text = (storage.join(folder, name) for name in names)
    with storage.explained(folder):
        storage.write_text(page, pages.html(document))
        storage.write_text(figures, json.dumps(content, indent=1, allow_nan=False) + "\n")
        storage.write_text(text, pages.markdown(document))
    return WrittenReport(page, figures, text, document.headline)
