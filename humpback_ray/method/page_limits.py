"""Limits of a page and of a Markdown document, so that none takes seconds or much memory.

Times are of one core without other work. What is above a limit is refused and counted.
"""

from __future__ import annotations

import re

# A page is a tree in memory, of about twenty times its bytes where it is nothing but tags.
MAX_CHARACTERS = 2**24
# Tags are read one by one, about 1 µs each. A page of 1 MiB, at which Common Crawl cut most
# of its archives, has so many if a tag stands at every tenth character.
MAX_TAGS = 100_000
# The parser compares each attribute of an element with all others, and it goes through a <select>
# for each of its options: 5,000 take 0.05 s and 0.1 s, and 50,000 a hundred times as much.
MAX_ATTRIBUTES = MAX_OPTIONS = 5_000
# The Markdown parser is written in Python: 250,000 characters take a second, and it looks for the
# end of each bracket again.
MAX_MARKDOWN = 250_000
MAX_BRACKETS = 10_000
# docutils is written in Python too: 100,000 characters take a quarter of a second.
MAX_RESTRUCTUREDTEXT = 250_000
MAX_LINE = 10_000  # docutils gives an empty page for a longer one
# A line may be a row of a table or an option: 0.25 ms.
MAX_LINES = 6_000
# Each mark of markup without its end is an element with a message: 0.5 ms.
MAX_MARKUP = 8_000
# Each `..` is compared with those before it: 2,000 take 0.8 s, and 4,000 take 3 s.
MAX_DIRECTIVES = 2_000
# Characters that substitutions put into a text. Twenty that each hold the next one twice make a
# million of one.
MAX_SUBSTITUTED = 2**18
MAX_NESTED_SUBSTITUTIONS = 20

_TAG = re.compile("<[a-zA-Z]")
_QUOTED = re.compile(r""""[^"]*(?:"|\Z)|'[^']*(?:'|\Z)""")
_DIRECTIVE = re.compile(r"\.\.[ \t]")
# A name between bars, and all up to the next line that begins at the margin.
_SUBSTITUTION = re.compile(r"\.\.[ \t]+\|([^|]+)\|(.*(?:\n(?:[ \t].*|(?=\n)))*)")
_REFERENCE = re.compile(r"\|(?=([^|]+)\|)")
_OPTION = re.compile("<option", re.IGNORECASE)


def refuse_excess(html: str) -> None:
    """Check a page before it is parsed.

    Raises:
        ValueError: it is above one of the limits.
    """
    _refuse("characters", len(html), MAX_CHARACTERS)
    num_tags = html.count("<")
    _refuse("tags", num_tags, MAX_TAGS)
    if num_tags > MAX_OPTIONS:
        _refuse("options", sum(1 for _ in _OPTION.finditer(html)), MAX_OPTIONS)
    pieces = html.split(">")
    if max(map(len, pieces)) > 2 * MAX_ATTRIBUTES:
        _refuse_attributes(pieces)


def _refuse_attributes(pieces: list[str]) -> None:
    for piece in pieces:
        if len(piece) > 2 * MAX_ATTRIBUTES and (tag := _TAG.search(piece)):
            num_attributes = len(_QUOTED.sub(" ", piece[tag.start() :]).split())
            _refuse("attributes in one tag", num_attributes, MAX_ATTRIBUTES)


def refuse_excess_of_markdown(markdown: str) -> None:
    """Check a Markdown document before it is parsed; errors as in `refuse_excess`."""
    _refuse("characters of Markdown", len(markdown), MAX_MARKDOWN)
    _refuse("brackets in Markdown", markdown.count("["), MAX_BRACKETS)


def refuse_excess_of_restructuredtext(text: str) -> None:
    """Check a text before docutils reads it; errors as in `refuse_excess`."""
    _refuse("characters of reStructuredText", len(text), MAX_RESTRUCTUREDTEXT)
    lines = text.splitlines()
    _refuse("characters in a line of reStructuredText", max(map(len, lines), default=0), MAX_LINE)
    _refuse("lines of reStructuredText", len(lines), MAX_LINES)
    num_directives = sum(1 for _ in _DIRECTIVE.finditer(text))
    _refuse("directives of reStructuredText", num_directives, MAX_DIRECTIVES)
    _refuse("marks of reStructuredText", sum(map(text.count, "*`|_[")), MAX_MARKUP)
    _refuse_substitutions(text)


def _refuse_substitutions(text: str) -> None:
    bodies = {_name(name): body for name, body in _SUBSTITUTION.findall(text)}
    inner = {name: _references(body) for name, body in bodies.items()}
    lengths = dict.fromkeys(bodies, 0)
    for _ in range(MAX_NESTED_SUBSTITUTIONS):
        before, lengths = (
            lengths,
            {
                name: len(body) + sum(lengths.get(other, 0) for other in inner[name])
                for name, body in bodies.items()
            },
        )
        if lengths == before:
            break
        num_substituted = sum(lengths.get(name, 0) for name in _references(text))
        _refuse("characters substituted", num_substituted, MAX_SUBSTITUTED)
    else:
        raise ValueError("its substitutions are nested too deeply, or in a circle")


def _references(text: str) -> list[str]:
    return list(map(_name, _REFERENCE.findall(text)))


def _name(written: str) -> str:
    """The name of a substitution, which may differ in case and white space."""
    return " ".join(written.lower().split())


def _refuse(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise ValueError(f"too large a page: {number:,} {what}, and at most {limit:,} are read")
