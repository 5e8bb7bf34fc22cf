"""Sections of a file as rows, each with its outcome."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.documents import CorpusFile, Document, Unreadable
from humpback_ray.corpus.readers import read_documents
from humpback_ray.method.filters import outcome_of, segment_id, storable
from humpback_ray.method.segmenting import (
    Section,
    sections_of_html,
    sections_of_markdown,
    sections_of_text,
)
from humpback_ray.rows import Segment, SegmentOutcome


def segments_of(file: CorpusFile, settings: CorpusSettings) -> Iterator[Segment]:
    """Every section of a file as a row with its outcome; duplicates are not looked for here.

    (document_id, start) is unique. A document without any section gives one row TOO_SHORT. An
    unreadable one gives one row UNREADABLE, whose text is the reason.

    Raises:
        ValueError, OSError: as `read_documents`.
    """
    for document in read_documents(file, settings):
        if isinstance(document, Unreadable):
            yield _unreadable_segment(document, settings)
            continue
        try:
            sections = _sections_of(document, settings.max_characters)
        except ValueError as error:
            refused = Unreadable(document.document_id, document.url, str(error))
            yield _unreadable_segment(refused, settings)
            continue
        for section in sections or [Section(header=None, text="", start=0)]:
            yield _segment(document, section, settings)


def _sections_of(document: Document, max_characters: int) -> list[Section]:
    cut = {
        "html": sections_of_html,
        "markdown": sections_of_markdown,
        "text": sections_of_text,
    }[document.format]
    return list(cut(document.content, max_characters))


def _segment(document: Document, section: Section, settings: CorpusSettings) -> Segment:
    return Segment(
        segment_id=segment_id(section.text),
        text=storable(section.text, settings.max_characters),
        header=storable(section.header or "", settings.max_characters),
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=section.start,
        num_characters=len(section.text),
        outcome=outcome_of(section, settings),
    )


def _unreadable_segment(document: Unreadable, settings: CorpusSettings) -> Segment:
    return Segment(
        segment_id=segment_id(document.reason),
        text=storable(document.reason, settings.max_characters),
        header="",
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=0,
        num_characters=0,
        outcome=SegmentOutcome.UNREADABLE,
    )
