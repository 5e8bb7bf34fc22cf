"""Sections of HTML, Markdown and plain text."""

import pytest

from humpback_ray.method.segmenting import (
    Cutting,
    Section,
    sections_of_html,
    sections_of_markdown,
    sections_of_text,
)

LONG = Cutting(10_000)

PAGE = """\
<html><head><title>T</title><style>p { color: red }</style></head><body>
<nav><h2>Menu</h2><a href="/">Home</a></nav>
<p>Before any header.</p>
<div class="content"><div><h1>Main <em>title</em> &amp; more<a class="headerlink">¶</a></h1></div>
<p>One <b>two</b>,
   three<br>&lt;tag&gt;&nbsp;caf&eacute;.</p>bare text <code>a &lt; b</code> after
<pre><code>def f(x):
    return x

print(1)
</code></pre>
<ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ul>
<ol><li>first</li><li>second</li></ol>
<table><caption>Figures</caption><thead><tr><th>A</th><th>B</th></tr></thead>
<tr><td><p>1</p><p>2</p></td><td></td></tr><tr><td><img alt="x"></td><td> </td></tr></table>
<blockquote><p>quoted</p></blockquote><script>var x = "<p>no</p>"</script>
<p hidden>not shown</p><p style="display:none">not shown</p></div>
<p style="color: red; DISPLAY : None !important">not shown</p>
<p style="visibility:hidden">not shown</p>
<footer>Imprint</footer></body></html>"""

PAGE_TEXT = """\
Main title & more

One two, three
<tag> café.

bare text a < b after

def f(x):
    return x

print(1)

- a
  - b
- c
  d
1. first
2. second

Figures

A | B
1 2 |

quoted"""


def test_html_page_becomes_one_section_of_readable_text():
    [section] = sections_of_html(PAGE, LONG)
    assert section.header == "Main title & more"
    assert [line.rstrip() for line in section.text.split("\n")] == PAGE_TEXT.split("\n")
    assert section.start == 0


def outline(sections):
    return [(section.start, section.header) for section in sections]


HEADERS = "<h1>A</h1>a<h3>B</h3>b<h2>C</h2>c<h4>D</h4>d<h2>E</h2>e<h1>F</h1>f"


def test_sections_that_fit_do_not_overlap():
    sections = list(sections_of_html(HEADERS, LONG))
    assert outline(sections) == [(0, "A"), (5, "F")]
    assert sections[0].text == "A\n\na\n\nB\n\nb\n\nC\n\nc\n\nD\n\nd\n\nE\n\ne"


def test_too_long_sections_are_followed_by_their_parts():
    sections = list(sections_of_html(HEADERS, Cutting(12)))
    assert outline(sections) == [(0, "A"), (1, "B"), (2, "C"), (4, "E"), (5, "F")]
    assert [s.text for s in sections[1:]] == ["B\n\nb", "C\n\nc\n\nD\n\nd", "E\n\ne", "F\n\nf"]
    assert len(sections[0].text) > 12


def test_html_where_nothing_fits_gives_a_section_for_each_header():
    sections = list(sections_of_html(HEADERS, Cutting(1)))
    assert outline(sections) == list(enumerate("ABCDEF"))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<h3>A</h3>a<h1>B</h1>b", [(0, "A"), (1, "B")]),  # the first header is not the highest
        ("<div><div><h2>A</h2></div></div><p>a</p><section><h2>B</h2>b</section>",
         [(0, "A"), (1, "B")]),
        ("<h2></h2><p>x</p><h2><img alt='logo'></h2>y", [(0, ""), (1, "")]),
        ("<table><tr><td><h2>A</h2>a</td><td><h2>B</h2>b</td></tr></table>", [(0, "A"), (1, "B")]),
        ("<h1><div>A</div><div>B</div></h1>x", [(0, "A B")]),
    ],
)  # fmt: skip
def test_headers_at_any_place_begin_sections(html, expected):
    assert outline(sections_of_html(html, LONG)) == expected


def test_page_without_headers_is_one_section():
    page = "<nav>Menu</nav><p>one</p><p>two</p><footer>Imprint</footer>"
    assert list(sections_of_html(page, Cutting(7))) == [Section(None, "one\n\ntwo", 0)]


@pytest.mark.parametrize("html", ["", "<html></html>", "<p> </p>", "<script>x</script>"])
def test_page_without_text_has_no_section(html):
    assert list(sections_of_html(html, LONG)) == []


def test_invalid_characters_become_replacement_characters():
    [section] = sections_of_html("<h1>A</h1>x\0y\ud800z", LONG)
    assert section.text == "A\n\nx\ufffdy\ufffdz"
    [section] = sections_of_markdown("# A\nx\0y\ud800z", LONG)
    assert section.text == "A\n\nx\ufffdy\ufffdz"


@pytest.mark.parametrize("tag", ["div", "ul><li", "blockquote", "table><tr><td", "span"])
def test_deep_nesting_is_read(tag):
    [section] = sections_of_html(f"<{tag}>" * 2000 + "x<h1>A</h1>y", LONG)
    assert section.header == "A"
    assert section.text.split() == ["A", "y"]


MARKDOWN = """\
---
title: front matter
---
<!-- a comment -->
[![badge](https://b/x.svg)](https://b)

# Title [![badge](https://b/y.svg)](https://b)

A [link](https://l) and `code` &amp; more.

Setext
------
| A | B |
|---|---|
| 1 | `x` |

```python
# not a header

x = 1
```
<h2 align="center">Raw HTML</h2>

* one
* two
"""


def test_markdown_is_cut_into_sections_of_readable_text():
    assert list(sections_of_markdown(MARKDOWN, Cutting(10))) == [
        Section(
            "Title",
            "Title\n\nA link and code & more.\n\nSetext\n\nA | B\n1 | x\n\n"
            "# not a header\n\nx = 1\n\nRaw HTML\n\n- one\n- two",
            0,
        ),
        Section("Setext", "Setext\n\nA | B\n1 | x\n\n# not a header\n\nx = 1", 1),
        Section("Raw HTML", "Raw HTML\n\n- one\n- two", 2),
    ]  # fmt: skip


def test_horizontal_rules_at_the_start_are_not_front_matter():
    [section] = sections_of_markdown("---\n\nSome text.\n\n---\n\nMore.\n", LONG)
    assert section == Section(None, "Some text.\n\nMore.", 0)


@pytest.mark.parametrize("text", ["one\n\ntwo\n\nthree", "one\r\n\r\ntwo\r\n \r\n\r\nthree\r\n"])
def test_paragraphs_are_joined_up_to_the_limit(text):
    assert list(sections_of_text(text, LONG)) == [Section(None, "one\n\ntwo\n\nthree", 0)]
    assert list(sections_of_text(text, Cutting(8))) == [
        Section(None, "one\n\ntwo", 0),
        Section(None, "three", 1),
    ]
    assert [s.text for s in sections_of_text(text, Cutting(7))] == ["one", "two", "three"]


def test_long_paragraph_is_one_section():
    paragraph = "word " * 10 + "end"
    sections = list(sections_of_text(f"a\n\n{paragraph}\n\nb", Cutting(20)))
    assert [s.text for s in sections] == ["a", paragraph, "b"]


@pytest.mark.parametrize("text", ["", " \n\n\t\n"])
def test_empty_text_has_no_section(text):
    assert list(sections_of_text(text, LONG)) == []
    assert list(sections_of_markdown(text, LONG)) == []


# --- sections that give way ---------------------------------------------------------------------


def test_refused_section_is_followed_by_its_subsections():
    cutting = Cutting(10_000, gives_way=lambda section: not section.header)
    html = "<h1><img alt='logo'></h1>x<h2>B</h2>b<h3>C</h3>c<h2></h2>d<h3>E</h3>e"
    assert outline(sections_of_html(html, cutting)) == [(0, ""), (1, "B"), (3, ""), (4, "E")]


def test_section_without_its_header_keeps_lower_headers():
    [section] = sections_of_html("<h1>A</h1>a<h2>B</h2>b", Cutting(10_000, keep_header=False))
    assert section == Section("A", "a\n\nB\n\nb", 0)


# --- headers in interactive elements ------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "header"),
    [
        ("<h3><button aria-expanded=false>Why?</button></h3>x", "Why?"),
        ("<h3><button><span>Why?</span><svg><title>icon</title></svg></button></h3>x", "Why?"),
        ("<button><h3>Why?</h3></button>x", "Why?"),
        ("<h3><a href='#'>Why?</a></h3>x", "Why?"),
        ("<h3><a class=headerlink href='#'>Why?</a></h3>x", "Why?"),
        ("<h3><span>Why?</span></h3>x", "Why?"),
        ("<h3>Why?<button>Copy link</button></h3>x", "Why?"),
        ("<h3>Why?<a class=headerlink>¶</a></h3>x", "Why?"),
        ("<h3><button>+</button></h3>x", ""),
    ],
)
def test_header_in_an_interactive_element_is_its_visible_text(html, header):
    [section] = sections_of_html(html, LONG)
    assert section.header == header


def test_button_outside_of_headers_leaves_no_text():
    [section] = sections_of_html("<nav><h2><button>menu</button></h2></nav><h1>A</h1><button>b"
                                 "</button>x", LONG)  # fmt: skip
    assert section.text == "A\n\nx"


# --- the shape of code, lists and tables --------------------------------------------------------


@pytest.mark.parametrize(
    "html",
    [
        "<pre><code><div>a = 1</div><div>  b</div><div></div><div>c</div></code></pre>",
        "<pre><div>a = 1</div>\n<div>  b</div>\n<div></div>\n<div>c</div>\n</pre>",
        "<pre><ol>\n<li>a = 1</li>\n<li>  b</li>\n<li></li><li>c</li></ol></pre>",
        "<pre><div class=code><p>a = 1</p><p>  b</p><p><br></p><p>c</p></div></pre>",
        "<pre><span>a = 1</span>\n<span>  b</span>\n\n<span>c</span></pre>",
        "<pre><table><tr><td class=hljs-ln-numbers>1</td><td>a = 1</td></tr><tr><td "
        "class=hljs-ln-numbers>2</td><td>  b</td></tr><tr><td></td></tr><tr><td>c</table></pre>",
    ],
)
def test_code_whose_lines_are_elements_keeps_single_line_breaks(html):
    [section] = sections_of_html(f"<h1>A</h1>{html}", LONG)
    assert section.text == "A\n\na = 1\n  b\n\nc"


@pytest.mark.parametrize(
    "html",
    [
        "<div><code>a</code></div><div><code>b</code> <code>c</code></div>",
        "<table><tr><td class=gutter><div>1</div><div>2</div></td><td class=code><div>"
        "<div class=line><code>a</code></div><div class=line><code>b</code> <code>c</code></div>"
        "</div></td></tr></table>",
    ],
)
def test_blocks_that_hold_only_code_are_lines_of_one_listing(html):
    [section] = sections_of_html(f"<h1>A</h1><p>Call <code>f</code>:</p>{html}<p>Done.", LONG)
    assert section.text == "A\n\nCall f:\n\na\nb c\n\nDone."


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<ol start=5><li>a<li value=9>b<li>c</ol>", "5. a\n9. b\n10. c"),
        ("<ol start=x><li>a</ol>", "1. a"),
        ("<menu><li>a<li>b</menu>", "- a\n- b"),
        ("<ol><li>run<pre>a\n\n  b</pre><li><pre>c</pre></ol>",
         "1. run\n  a\n\n    b\n2. c"),
        ("<dl><dt>Krill<dd>A small<br>animal.<dd>Food.<dt>Whale<dt>Orca<dd><p>Large.<p>It sings."
         "</dl><p>b", "Krill\n  A small\n  animal.\n  Food.\nWhale\nOrca\n  Large.\n  It sings."
         "\n\nb"),
        ("<dl><div><dt><b>a</b></dt><dd>b<ul><li>c<li>d</ul></dd></div><dt>e<dd>f<dl><dt>g<dd>h</dl>"
         "<dt>i<dd>j</dl>", "a\n  b\n  - c\n  - d\ne\n  f\n  g\n    h\ni\n  j"),
        ("<dl><dt><code>f()</code><dd><pre>x = 1\n\ny = 2</pre></dl>",
         "f()\n  x = 1\n\n  y = 2"),
        ("<ul><li>a<dl><dt>b<dd>c</dl><li>d</ul>", "- a\n  b\n    c\n- d"),
        ("<table><tr><td>a<td>b</table><table><tr><td>c<td>d</table>", "a | b\n\nc | d"),
        ("<table><tr><td colspan=2>a<td>b<tr><td>c<td>d<td>e</table>", "a |  | b\nc | d | e"),
        ("<table><tr><td rowspan=2>a<td>b<td>c<tr><td>d<td>e</table>", "a | b | c\n | d | e"),
        ("<table><tr><td>a<td rowspan=2>b<tr><td>c<tr><td>d<td>e</table>", "a | b\nc |\nd | e"),
    ],
)  # fmt: skip
def test_lists_and_tables_keep_their_shape(html, text):
    [section] = sections_of_html(f"<h1>A</h1>{html}", LONG)
    assert [line.rstrip() for line in section.text.split("\n")][2:] == text.split("\n")


# --- plain text ---------------------------------------------------------------------------------


def test_text_without_blank_lines_is_cut_at_line_breaks():
    lines = [f"{number} " + "x" * 628 for number in range(9)]
    sections = [s.text for s in sections_of_text("\n".join(lines), Cutting(3000))]
    assert sections == ["\n".join(lines[:4]), "\n".join(lines[4:8]), lines[8]]


def test_long_paragraph_among_others_is_cut_at_its_line_breaks():
    text = "first\n\n" + "\n".join(["a" * 9, "b" * 9, "c" * 9]) + "\n\nlast"
    assert [s.text for s in sections_of_text(text, Cutting(20))] == [
        f"first\n\n{'a' * 9}",
        f"{'b' * 9}\n{'c' * 9}",
        "last",
    ]
