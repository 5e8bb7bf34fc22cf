"""Texts whose words tell their score, and a folder of segments of them."""

from __future__ import annotations

import random

import numpy as np

from humpback_ray.method.filters import segment_id
from humpback_ray.rows import Segment, SegmentOutcome

NOISE = 0.4  # standard deviation of a score around the text's quality


def scored_texts(number: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of random words, the more good ones among them the better; and noisy scores, 1 to 5."""
    drawn = random.Random(seed)
    texts, scores = [], []
    for _ in range(number):
        quality = drawn.random()
        words = [f"word{int(drawn.paretovariate(0.7)) % 2000}" for _ in range(60)]
        words += [f"good{drawn.randrange(40)}" for _ in range(round(20 * quality))]
        drawn.shuffle(words)
        texts.append(" ".join(words))
        scores.append(min(max(1 + 4 * quality + drawn.gauss(0, NOISE), 1.0), 5.0))
    return texts, np.array(scores)


def segments_of(texts: list[str]) -> list[Segment]:
    """A segment for each text."""
    return [
        Segment(segment_id(text), text, "A header", f"doc-{n}", "", n, len(text),
                SegmentOutcome.KEPT)
        for n, text in enumerate(texts)
    ]  # fmt: skip
