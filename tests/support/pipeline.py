"""The smallest run of the whole method."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

OVERRIDES = [
    "settings.base.training.num_steps=30",
    "settings.backward_training.num_steps=6",
    "settings.forward_training.num_steps=6",
    "settings.forward_training.batch_size=4",
    # Models of so few steps put little probability on grades, and end few instructions early.
    "settings.rating.min_grade_mass=0",
    "settings.augmentation.max_tokens=48",
    "settings.evaluation.sampling.max_tokens=8",
    "settings.seed.num_held_out=8",
    "settings.seed.max_pairs=40",
    # Trainings of several workers have tests of their own; here each of five would start two.
    "placement.training.num_workers=1",
    "placement.training.zero_stage=3",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder of Markdown, HTML and JSONL documents: the READMEs of a few installed packages."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in (
        "typer",
        "rich",
        "fsspec",
        "anyio",
        "tqdm",
        "networkx",
        "httpx",
        "Jinja2",
        "attrs",
    ):
        readme = metadata.metadata(name).get_payload() or metadata.metadata(name)["Description"]
        (folder / f"{name}.md").write_text(str(readme), encoding="utf-8")
    paragraph = "<p>Every paragraph of page {0} says something of its own about {0}.</p>"
    pages = "".join(f"<h2>Page {n}</h2>" + paragraph.format(f"{n} {'x' * n}") for n in range(5))
    (folder / "page.html").write_text(f"<html><body><h1>Pages</h1>{pages}</body></html>")
    poisoned = ["A text with a \ud800 surrogate. " * 40, "NUL \x00 in it. " * 60]
    lines = [*({"text": text} for text in poisoned), {}]
    (folder / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    return folder
