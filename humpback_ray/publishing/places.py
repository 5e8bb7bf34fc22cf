"""A run's figures without the places of its files, because everybody can read a card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from humpback_ray import storage
from humpback_ray.figures.types import NotComputed, RunFigures


def without_places(figures: RunFigures) -> RunFigures:
    """The figures with the names of files, folders and hosts' URLs in place of their paths."""

    def placeless(text: str) -> str:
        return text.replace(figures.folder, figures.run)

    return replace(
        figures,
        folder="",
        settings={key: _named(value) for key, value in figures.settings.items()},
        problems=[placeless(line) for line in figures.problems],
        not_computed=[NotComputed(e.what, placeless(e.why)) for e in figures.not_computed],
    )


def _named(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    is_place = isinstance(value, str) and (value.startswith(("/", "~", ".")) or "://" in value)
    return storage.name(value) if is_place else value
