"""Facts about a document's source, licence and permitted use, from its record and its markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from resiliparse.parse.html import HTMLTree

from humpback_ray.corpus.documents import CorpusFile, Document
from humpback_ray.method.characters import without_unstorable
from humpback_ray.method.filters import storable
from humpback_ray.method.page_limits import refuse_excess
from humpback_ray.method.page_tags import Tag, attributes_of, tags_of
from humpback_ray.rows import DocumentFacts

MAX_URL = 2**14  # characters; longer ones are data and no address
MAX_ID = 2**10  # as for the URL: some corpora take it for the id
MAX_REASON = 80

# A directive in `X-Robots-Tag` or a robots meta element, whichever robot it names (`googlebot` in
# place of `robots`). The TDM Reservation Protocol (W3C Community Group, 2024) has a header and a
# meta element of one name.
_ROBOTS = ("x-robots-tag", "robots")
_ROBOT = "bot"  # ends the name of every crawler that documents such an element
_NO_AI = frozenset({"noai", "noimageai"})
_RESERVATION = "tdm-reservation"

# Only a page with one of these words is parsed for them: most have none.
_WORDS = tuple(w.encode() for w in (*sorted(_NO_AI), _RESERVATION, "creativecommons.org"))
_LICENCE = re.compile(
    r"(?:^|//|\.)creativecommons\.org/(?:licen[sc]es|publicdomain)/([a-z+-]+)/(\d\.\d)",
    re.IGNORECASE,
)


def facts_of(file: CorpusFile, document: Document) -> DocumentFacts:
    """The facts about a document.

    Raises:
        ValueError: the parser refuses the page, or it is too large to be read in time.
    """
    capture = document.capture
    licences, stated = frozenset[str](), capture.opt_outs
    if document.format == "html" and _has_words(document.content):
        refuse_excess(document.content)
        page = HTMLTree.parse(without_unstorable(document.content)).document
        tags = tags_of(page) if page is not None else []
        licences = _licences_of(tags)
        stated |= _opt_outs_of(tags)
    elif document.format in ("markdown", "restructuredtext"):
        licences = frozenset(map(_named, _LICENCE.finditer(document.content)))
    return DocumentFacts(
        document_id=document.document_id,
        url=storable(document.url, MAX_URL),
        file=file.name,
        index=document.index,
        source_id=storable(document.source_id, MAX_ID) if document.source_id else None,
        offset=capture.offset,
        captured_at=capture.captured_at,
        http_status=capture.http_status,
        truncated=storable(capture.truncated, MAX_REASON) if capture.truncated else None,
        licence=", ".join(sorted(licences)) or None,
        opt_out=", ".join(sorted(stated)) or None,
    )


def _has_words(content: str) -> bool:
    folded = content.encode(errors="replace").lower()
    return any(word in folded for word in _WORDS)


def opt_outs(name: str, value: str) -> frozenset[str]:
    """The opt-outs in an HTTP header or a meta element: noai, noimageai, tdm-reservation."""
    name = name.strip().lower()
    if name in _ROBOTS or name.endswith(_ROBOT):
        return _NO_AI & set(re.split(r"[\s,:;]+", value.lower()))
    if name == _RESERVATION and value.strip() == "1":
        return frozenset({_RESERVATION})
    return frozenset()


def utc_time(stated: str | None) -> str | None:
    """A time of an archive in UTC, as ISO 8601 ending in Z; None where it states none."""
    try:
        time = datetime.fromisoformat((stated or "").strip())
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time.isoformat().removesuffix("+00:00") + "Z"


def _opt_outs_of(tags: list[Tag]) -> frozenset[str]:
    found = frozenset[str]()
    for tag in tags:
        if tag[1] == "meta":
            attributes = attributes_of(tag)
            name = attributes.get("name") or attributes.get("http-equiv", "")
            found |= opt_outs(name, attributes.get("content", ""))
    return found


def _licences_of(tags: list[Tag]) -> frozenset[str]:
    """The Creative Commons licences that a page links to.

    A link with `rel=license` speaks of the page. Without one, every link counts, though it may
    speak of a picture.
    """
    links = list(_licence_links(tags))
    of_page = {licence for licence, is_of_page in links if is_of_page}
    return frozenset(of_page or {licence for licence, _ in links})


def _licence_links(tags: list[Tag]) -> Iterator[tuple[str, bool]]:
    for tag in tags:
        if tag[1] not in ("a", "link"):
            continue
        attributes = attributes_of(tag)
        if found := _LICENCE.search(attributes.get("href", "").strip()):
            relations = attributes.get("rel", "").lower().split()
            yield _named(found), "license" in relations


def _named(licence: re.Match[str]) -> str:
    return f"{licence[1]}/{licence[2]}".lower()
