"""Words that texts share with prompts."""

import pytest

from humpback_ray.method.contamination import Hit, PromptIndex

LONG = "Explain, in your own words, why whales sing to each other at night."
SHORT = "Who is Larry Page?"
INDEX = PromptIndex({"p0": LONG, "p1": SHORT, "p2": f"Tell me: {LONG}", "p3": "?!"}, ngram=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("why WHALES sing - to each other, at\nnight",
         ("p0", "why whales sing to each other at night")),
        (f"A page. {LONG} More.", ("p0", "explain in your own words why whales sing")),
        (f"Tell me. {LONG}", ("p2", "tell me explain in your own words why")),
        ("whales sing to each other at night. Why?", None),  # seven words
        ("why whales sing to each other at day", None),
        ("Who is Larry Page", ("p1", "who is larry page")),
        ("# Who is Larry Page?\n\nHe is a computer scientist.", ("p1", "who is larry page")),
        ("He asked: Who is Larry Page? Nobody knew.", None),
        ("?!", None),
        ("", None),
    ],
)  # fmt: skip
def test_text_hits_a_prompt_by_eight_words_or_as_a_line(text, expected):
    assert INDEX.hit(text) == (Hit(*expected) if expected else None)


def test_shared_words_are_counted_by_the_setting():
    index = PromptIndex({"p": LONG}, ngram=3)
    assert index.hit("Do whales sing to men?") == Hit("p", "whales sing to")
    assert index.hit("Do whales sing for men?") is None
