"""The language of a segment, by resiliparse's detector."""

from __future__ import annotations

from resiliparse.parse.lang import detect_fast

# The detector's own limit: greater distances are hardly ever right. Texts of digits or in a script
# that it does not know have no language.
MAX_RANK = 1200


def is_in_language(text: str, language: str, margin: int) -> bool:
    """True where a language is the best match of a text, or at most `margin` ranks behind it."""
    best, rank = detect_fast(text, cutoff=MAX_RANK)
    if best == language or best == "unknown":
        return bool(best == language)
    own, own_rank = detect_fast(text, cutoff=MAX_RANK, langs=[language])
    return own == language and own_rank <= rank + margin
