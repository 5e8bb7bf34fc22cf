from __future__ import annotations

import json

from tests.support import fingerprints


def test_fingerprints_of_shipped_recipes_equal_the_golden_file():
    assert fingerprints.of_recipes() == json.loads(fingerprints.GOLDEN.read_text()), (
        "a finished run would be refused; if that is meant: python -m tests.support.fingerprints"
    )
