"""Hosts and URLs that are blocked."""

import pytest

from humpback_ray.method.blocking import BlockList, entries_of

BLOCKED = BlockList(
    [
        "shop.example",
        "HTTPS://Sea.example/Forum/",
        "8.8.8.8",
        "[::1]",
        "*.dot.example",
        "q.example/page?id=1",
    ]
)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://shop.example", "shop.example"),
        ("https://WWW.Shop.example:8080/a?b#c", "shop.example"),
        ("http://user:pass@shop.example./x", "shop.example"),
        ("shop.example/a", "shop.example"),
        ("http://sea.example/Forum", "sea.example/Forum"),
        ("http://www.sea.example/Forum/topic?x=1", "sea.example/Forum"),
        ("http://sea.example/Forum?x=1", "sea.example/Forum"),
        ("http://sea.example/Forum#top", "sea.example/Forum"),
        ("http://www.dot.example", "dot.example"),
        ("http://8.8.8.8/x", "8.8.8.8"),
        ("http://[::1]:80/x", "[::1]"),
        ("http://q.example/page?id=1", "q.example/page?id=1"),
    ],
)
def test_url_of_an_entry_is_blocked_by_it(url, entry):
    assert BLOCKED.entry_for(url) == entry


@pytest.mark.parametrize(
    "url",
    [
        "http://workshop.example", "http://shop.example.org", "http://example/shop.example",
        "http://sea.example", "http://sea.example/Forums", "http://sea.example/forum",
        "http://sea.example/a/Forum", "http://1.8.8.8.8/x", "http://q.example/page?id=12", "a.html",
        "", "http://",
    ],
)  # fmt: skip
def test_other_url_is_not_blocked(url):
    assert BLOCKED.entry_for(url) == ""


def test_file_of_entries_has_one_on_each_line():
    text = "# a list\n\nshop.example\r\n  sea.example/forum#new  # since May\n"
    assert entries_of(text) == ["shop.example", "sea.example/forum#new"]


@pytest.mark.parametrize("line", ["0.0.0.0 b.example", "||b.example^", "/forum", "http://"])
def test_line_that_is_no_entry_is_refused_with_its_number(line):
    with pytest.raises(ValueError, match=r"line 2: .*such as example\.com/forum \(it is"):
        entries_of(f"a.example\n{line}\n")
