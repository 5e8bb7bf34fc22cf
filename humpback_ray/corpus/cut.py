"""Sections of a file as rows, each with its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.documents import CorpusFile, Document, NotRead, Unreadable
from humpback_ray.corpus.provenance import facts_of
from humpback_ray.corpus.readers import read_documents
from humpback_ray.method.blocking import BlockList
from humpback_ray.method.filters import gives_way, outcome_of, segment_id, storable
from humpback_ray.method.personal_data import without_personal_data
from humpback_ray.method.segmenting import (
    Cutting,
    Section,
    sections_of_html,
    sections_of_markdown,
    sections_of_restructuredtext,
    sections_of_text,
)
from humpback_ray.rows import DocumentFacts, Segment, SegmentOutcome


def segments_of(
    file: CorpusFile, settings: CorpusSettings, blocked: BlockList | None = None
) -> Iterator[Segment]:
    """Every section of a file as a row with its outcome; duplicates are not looked for here.

    (document_id, start) is unique. A document without any section gives one row TOO_SHORT. A
    blocked one, what is unreadable, and what is no document give one row, whose text is the reason.

    Raises:
        UserError: as `read_documents`.
    """
    return (row for row in rows_of(file, settings, blocked) if isinstance(row, Segment))


def rows_of(
    file: CorpusFile, settings: CorpusSettings, blocked: BlockList | None = None
) -> Iterator[DocumentFacts | Segment]:
    """The rows of `segments_of`, and before the sections of a document the facts about it.

    Raises:
        UserError: as `read_documents`.
    """
    for document in read_documents(file, settings):
        if not isinstance(document, Document):
            yield segment_without_text(document, settings)
            continue
        if blocked is not None and (entry := blocked.entry_for(document.url)):
            yield _without_text(document, entry, SegmentOutcome.BLOCKED, settings)
            continue
        try:
            facts = facts_of(file, document)
            sections = _sections_of(document, settings)
        except ValueError as error:
            refused = Unreadable(document.document_id, document.url, str(error))
            yield segment_without_text(refused, settings)
            continue
        yield facts
        is_out = facts.opt_out is not None and settings.opt_out == "drop"
        empty = Section(header=None, text="", start=0)
        for section, outcome in sections or [(empty, SegmentOutcome.TOO_SHORT)]:
            outcome = SegmentOutcome.OPTED_OUT if is_out else outcome
            yield _segment(document, section, outcome, settings)


def _sections_of(
    document: Document, settings: CorpusSettings
) -> list[tuple[Section, SegmentOutcome]]:
    """The document's sections as they are stored, with their outcomes."""
    needs_header = document.format != "text" and not settings.whole_pages

    @lru_cache(maxsize=1)  # asked twice in a row: to cut further, and for the row
    def judged(section: Section) -> tuple[Section, SegmentOutcome]:
        if settings.replace_personal_data:
            section = _without_personal_data(section)
        if needs_header and section.header is None:
            return section, SegmentOutcome.NO_HEADER
        return section, outcome_of(section, settings)

    cut = {
        "html": sections_of_html,
        "markdown": sections_of_markdown,
        "restructuredtext": sections_of_restructuredtext,
        "text": sections_of_text,
    }[document.format]
    cutting = Cutting(
        settings.max_characters,
        settings.keep_header,
        lambda section: gives_way(*judged(section), settings),
    )
    return [judged(section) for section in cut(document.content, cutting)]


def _without_personal_data(section: Section) -> Section:
    header = section.header and without_personal_data(section.header)
    return replace(section, header=header, text=without_personal_data(section.text))


def _segment(
    document: Document, section: Section, outcome: SegmentOutcome, settings: CorpusSettings
) -> Segment:
    return Segment(
        segment_id=segment_id(section.text),
        text=storable(section.text, settings.max_characters),
        header=storable(section.header or "", settings.max_characters),
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=section.start,
        num_characters=len(section.text),
        outcome=outcome,
    )


def segment_without_text(document: Unreadable | NotRead, settings: CorpusSettings) -> Segment:
    """The row for what gave no document; its text is the reason."""
    is_unreadable = isinstance(document, Unreadable)
    outcome = SegmentOutcome.UNREADABLE if is_unreadable else SegmentOutcome.NOT_READ
    return _without_text(document, document.reason, outcome, settings)


def _without_text(
    document: Document | Unreadable | NotRead,
    reason: str,
    outcome: SegmentOutcome,
    settings: CorpusSettings,
) -> Segment:
    return Segment(
        segment_id=segment_id(reason),
        text=storable(reason, settings.max_characters),
        header="",
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=0,
        num_characters=0,
        outcome=outcome,
    )
