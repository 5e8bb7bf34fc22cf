"""reStructuredText is cut at its headers and reaches nothing outside of itself."""

import time

import pytest

from humpback_ray.method.segmenting import Cutting, Section, sections_of_restructuredtext

LONG = Cutting(10_000)
# Of a core that other work shares. What has no limit takes minutes.
MAX_SECONDS = 20

README = """
=====
Title
=====

.. image:: https://example.com/badge.svg

A `link <https://example.com>`_ and ``code`` with |name|.

.. |name| replace:: a name

First part
----------

* one
* two

.. code-block:: python

    x = 1
        indented

Second part
-----------

==  ==
A   B
==  ==
1   x
==  ==

:py:func:`unknown.role` stays.

.. toctree::

   unknown directive
"""


def sections(text, cutting=LONG):
    return list(sections_of_restructuredtext(text, cutting))


def test_it_is_cut_at_its_headers_into_readable_text():
    first = "First part\n\n- one\n- two\n\nx = 1\n    indented"
    second = "Second part\n\nA | B\n1 | x\n\n:py:func:`unknown.role` stays."
    whole = f"Title\n\nA link and code with a name.\n\n{first}\n\n{second}"
    assert sections(README) == [Section("Title", whole, 0)]
    assert sections(README, Cutting(100)) == [
        Section("Title", whole, 0),
        Section("First part", first, 1),
        Section("Second part", second, 2),
    ]


def test_notes_and_footnotes_are_a_part_of_the_text():
    text = """
Title
=====

Text [#]_.

.. note:: A note.

.. admonition:: Mind

   A warning.

.. contents::

.. [#] A footnote.
"""
    [section] = sections(text)
    paragraphs = ["Title", "Text [1].", "Note", "A note.", "Mind", "A warning.", "[1]"]
    assert section.text == "\n\n".join([*paragraphs, "A footnote."])


@pytest.mark.parametrize(
    "directive",
    [
        ".. include:: {file}",
        ".. include:: {file}\n   :literal:",
        ".. raw:: html\n   :file: {file}",
        ".. raw:: html\n\n   <p>secret</p>",
        ".. csv-table::\n   :file: {file}",
        ".. figure:: {file}\n   :scale: 50",
    ],
)
def test_no_file_and_no_raw_html_gets_in(tmp_path, directive):
    file = tmp_path / "secret.txt"
    file.write_text("secret")
    [section] = sections(f"Title\n=====\n\n{directive.format(file=file)}\n\nText.\n")
    assert section.text.startswith("Title")
    assert section.text.endswith("Text.")
    assert "secret" not in section.text.replace(str(file), "")


def test_the_day_of_reading_is_not_in_the_text():
    text = "Title\n=====\n\nOn |today|.\n\n.. |today| date::\n"
    [section] = sections(text)
    assert section.text == "Title\n\nOn |today|."
    assert time.strftime("%Y") not in section.text


def test_carriage_returns_and_a_byte_order_mark_make_no_difference():
    text = "Title\n=====\n\nText.\n\nNext\n====\n\nMore.\n"
    assert sections("\ufeff" + text.replace("\n", "\r\n")) == sections(text)
    assert [section.header for section in sections(text)] == ["Title", "Next"]


def bomb(depth, gap=""):
    """Substitutions that each hold the next one twice."""
    lines = [f".. |a{n}| replace:: {gap}|a{n + 1}| |a{n + 1}|" for n in range(depth)]
    return "\n".join([*lines, f".. |a{depth}| replace:: boom", "", "|a0|"])


NESTED = "nested too deeply"
MARKUP = "marks of reStructuredText, and at most 8,000 are read"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 250_001, "250,014 characters of reStructuredText, and at most 250,000 are read"),
        ("x" * 10_001, "10,001 characters in a line of reStructuredText"),
        ("`" * 9_000, MARKUP),
        ("*a *a *a *a\n" * 2_500, MARKUP),
        ("|a|_ \n" * 3_000, MARKUP),
        ("a\n" * 6_000, "6,003 lines of reStructuredText, and at most 6,000 are read"),
        ("* .. class::\n\n" * 2_500, "2,500 directives of reStructuredText"),
        (f".. |a| replace:: {'x' * 9_000}\n\n" + "|a| " * 2_000, "characters substituted"),
        (bomb(30), "characters substituted"),
        (bomb(30, "\n\n   "), "characters substituted"),
        (".. |a| replace:: |b|\n.. |B| replace:: |A|\n\n|a|", "nested too deeply, or in a circle"),
        ("\n\n".join(f".. _a{n}: a{n + 1}_" for n in range(2_000)) + "\n\na0_", NESTED),
        ("\n".join(" " * n + "> x\n" for n in range(600)), NESTED),
        ("\n".join(" " * 2 * n + "* x\n" for n in range(400)), NESTED),
        (".. math::\n\n   " + "{" * 9_000, NESTED),
    ],
)
def test_hostile_text_is_refused_with_a_reason(text, reason):
    began = time.process_time()
    with pytest.raises(ValueError, match=reason):
        sections(f"Title\n=====\n\n{text}")
    assert time.process_time() - began < MAX_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "*a *b\n\n" * 2_900,
        "*a *b\n" * 3_900,
        bomb(10),
        "+---+\n" * 5_000,
        ".. class::\n\n" * 1_900,
        ".. list-table::\n\n" + "   * - a\n     - b\n" * 2_900,
        ".. csv-table::\n\n" + "   a,b\n" * 5_900,
        "-a  b\n" * 5_900,
        "\x00\x01\x1b[2J\u202e text",
    ],
)
def test_hostile_text_is_read_in_time(text):
    began = time.process_time()
    [section] = sections(f"Title\n=====\n\n{text}", Cutting(10**6))
    assert section.header == "Title"
    assert time.process_time() - began < MAX_SECONDS
