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


NESTED = "nested too deeply"
MARKUP = "marks of reStructuredText, and at most 8,000 are read"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 250_001, "250,014 characters of reStructuredText, and at most 250,000 are read"),
        ("x" * 10_001, "10,001 characters in a line of reStructuredText"),
        ("`" * 9_000, MARKUP),
        ("*a\n" * 80_000, MARKUP),
        ("|a|_ \n" * 3_000, MARKUP),
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
        "*a *b\n\n" * 3_900,
        "*a\n" * 7_900,
        "\n\n".join(f".. |a{n + 1}| replace:: |a{n}| |a{n}|" for n in range(60)) + "\n\n|a60|",
        "+---+\n" * 5_000,
        ".. class::\n\n" * 10_000,
        "\x00\x01\x1b[2J\u202e text",
    ],
)
def test_hostile_text_is_read_in_time(text):
    began = time.process_time()
    [section] = sections(f"Title\n=====\n\n{text}", Cutting(10**6))
    assert section.header == "Title"
    assert time.process_time() - began < MAX_SECONDS
