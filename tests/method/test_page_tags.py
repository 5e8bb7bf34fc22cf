"""The tags of a page: text that looks like markup is text, and each element but void ones ends."""

import pytest
from resiliparse.parse.html import HTMLTree

from humpback_ray.method.html_blocks import blocks_of_html
from humpback_ray.method.page_tags import VOID_TAGS, attributes_of, tags_of


def texts(html):
    return [block.text for block in blocks_of_html(html)]


def tags(html):
    return tags_of(HTMLTree.parse(html).body)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a &lt;b> &amp;amp; c&nbsp;d", "a <b> &amp; c d"),
        ("<p title='x > y \" <p>'>a", "a"),
        ("<p a\"b='1'>a", "a"),
        ("a<!-- <p>no --!>b<!-->c<!--->d<!-- > -->e", "abcde"),
        ("a<?php no ?>b<!no>c</ no>d", "abcd"),
        ("a<script>if (x<y) '<p>' > '</p>'</script>b", "ab"),
        ("a<script><!-- <script>no</script> --></script>b", "ab"),
        ("a<script><!-- no </script>b", "ab"),
        ("a<script><!---->'<script>'</script>b", "ab"),
        ("a<style>p > q { content: '</p>' }</style>b", "ab"),
        ("<xmp><b>a</b> &amp;</xmp>", "<b>a</b> &amp;"),
        ("<plaintext><b>a</b>", "<b>a</b>"),
        ("<math><style>no&lt;/style>&lt;p></style><mi>a</mi></math>", "a"),
        ("<math><param>a<mi>b</mi></param></math>c", "abc"),
        ("a<template><p>no<template>no</template></template>b", "ab"),
        ("<x<y>a</x<y>b", "ab"),
    ],
)
def test_text_of_page_with_unusual_markup_is_what_the_tree_has(html, expected):
    assert texts(f"<div>{html}") == [expected]


def test_every_element_but_void_ones_has_its_end_tag_in_place():
    page = (
        "<ul><li>a<br>b<li><img src=x>c</ul><math><param>d</param></math><template><p></template>"
    )
    open_names = []
    for _, name, _ in tags(page):
        if name.startswith("/"):
            assert open_names.pop() == name[1:]
        elif name and name not in VOID_TAGS:
            open_names.append(name)
    assert open_names == []


def test_attributes_are_those_of_the_page_without_references():
    [_, tag, *_] = tags("""<p hidden title='x class="y" &lt;&nbsp;&amp;quot;' =a=b>""")
    assert attributes_of(tag) == {
        "hidden": "", "title": 'x class="y" <\xa0&quot;', "=a": "b",
    }  # fmt: skip
