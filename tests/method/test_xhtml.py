"""XHTML: an empty element ends where XML says so, and CDATA is text."""

import time

import pytest

from humpback_ray.method.page_limits import MAX_CHARACTERS, MAX_TAGS
from humpback_ray.method.segmenting import Cutting, sections_of_html
from humpback_ray.method.xhtml import html_of_xhtml, is_xml

PAGE = """\
<?xml version="1.0" encoding="UTF-8"?>
<html xmlns="http://www.w3.org/1999/xhtml">
<head><title/><script type="text/javascript" src="x.js"/><style/></head>
<body><h1>Whales<a id="top"/></h1><p>One line<br/>and <em/>two</p><textarea />
<p><![CDATA[if a < b & c > d]]></p><h2 />
<h2>Krill</h2><p>Small</p></body></html>"""


def test_empty_elements_leave_the_rest_of_the_page():
    [section] = sections_of_html(html_of_xhtml(PAGE), Cutting(10_000))
    lines = ["Whales", "One line\nand two", "if a < b & c > d", "Krill", "Small"]
    assert section.text == "\n\n".join(lines)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<br/><IMG src='x'/><hr />", "<br/><IMG src='x'/><hr />"),
        ("<a name='x'/>y", "<a name='x'></a>y"),
        ("<svg:g/>", "<svg:g></svg:g>"),
        ("<p>this / that /> x</p>", "<p>this / that /> x</p>"),
        ("</p/> </> />", "</p/> </> />"),
        ("<![CDATA[<b/>]]>", "&lt;b/&gt;"),
        ("a <![CDATA[ open", "a <![CDATA[ open"),
    ],
)
def test_only_empty_elements_and_cdata_change(page, expected):
    assert html_of_xhtml(page) == expected


@pytest.mark.parametrize(
    ("page", "expected"),
    [("\ufeff\n<?xml version='1.0'?>", True), ("<?xml-stylesheet?>", False), ("<p>x", False)],
)
def test_xml_declares_itself(page, expected):
    assert is_xml(page) is expected


@pytest.mark.parametrize("piece", ["<![CDATA[", "<a", "/>", "<a/>", "<a >/>", "<a\n"])
def test_time_grows_with_the_length_of_the_page(piece):
    page = piece.ljust(MAX_CHARACTERS // MAX_TAGS) * MAX_TAGS
    began = time.process_time()
    html_of_xhtml(page)
    html_of_xhtml(piece * MAX_TAGS * 2)
    assert time.process_time() - began < 5  # a quadratic search takes hours
