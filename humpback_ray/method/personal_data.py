"""E-mail addresses and public IPv4 addresses replaced by ones that belong to nobody.

FineWeb (arXiv 2406.17557) replaces the same two kinds. The replacements are reserved for examples
(RFC 2606, RFC 5737), so texts stay readable.
"""

from __future__ import annotations

import ipaddress
import re

EMAIL = "email@example.com"
IP_ADDRESS = "192.0.2.1"
REPLACEMENTS = {"email": EMAIL, "ip_address": IP_ADDRESS}

# Letters of Latin scripts, accents included. All letters would take in the words around an address
# where no spaces stand between words, as in Chinese.
_LETTER = "a-z\u00c0-\u024f"
_WORD = rf"{_LETTER}0-9_"
# Begins where no such character stands before it, so long words are read once. An apostrophe is
# a part of a name only between two letters, because others are quotation marks.
_EMAIL = re.compile(
    rf"(?<![{_WORD}.%+-])(?<![{_LETTER}]')"
    rf"[{_WORD}.%+-]{{1,64}}(?:(?<=[{_LETTER}])'[{_LETTER}][{_WORD}.%+-]{{0,63}})?"
    rf"@(?:[{_LETTER}0-9-]{{1,63}}\.){{1,8}}[{_LETTER}]{{2,24}}(?![{_WORD}-])",
    re.IGNORECASE,
)
_OCTETS = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])", re.ASCII)


def without_personal_data(text: str) -> str:
    """A text in which every e-mail address and every public IPv4 address is a reserved one.

    Addresses of private networks, of the own machine and the like say nothing about anybody and
    stay.
    """
    if "@" in text:
        text = _EMAIL.sub(EMAIL, text)
    return _OCTETS.sub(_replacement, text)


def _replacement(found: re.Match[str]) -> str:
    try:
        is_public = ipaddress.IPv4Address(found[0]).is_global
    except ValueError:  # 999.1.1.1, or 01.02.03.04
        return found[0]
    return IP_ADDRESS if is_public else found[0]
