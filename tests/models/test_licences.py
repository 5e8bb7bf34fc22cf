"""Licences as the front matter of a card names them."""

from __future__ import annotations

import pytest

from humpback_ray.models.licences import front_matter_of


@pytest.mark.parametrize(
    ("licence", "entries"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("llama3.1", {"license": "llama3.1"}),
        ("unknown", {"license": "unknown"}),
        ("SmolLM Terms, v2!", {"license": "other", "license_name": "smollm-terms-v2"}),
        ("許可", {"license": "other"}),
        ("", {}),
        (None, {}),
    ],
)
def test_licence_is_one_of_the_hubs_or_other_with_its_name(licence, entries):
    assert front_matter_of(licence) == entries
