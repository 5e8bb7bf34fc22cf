"""Settings of the filter before augmentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from humpback_ray.config.fields import Frozen


class PrefilterSettings(Frozen):
    """A linear model of M_0's ratings of a sample cuts the segments before M_yx sees them.

    Not in the paper. FineWeb-Edu (arXiv 2406.17557, section 4) scores a crawl with a linear head on
    embeddings that has learnt a language model's grades of 450,000 pages; here it sees hashed
    n-grams, so scoring needs no GPU. Superfiltering (arXiv 2402.00530) chooses with a weak model
    for a strong one.
    """

    # Segments that are augmented and rated to learn from; the intervals of the recall, which the
    # stage `prefilter/model` prints, say whether they are enough.
    num_rated: Annotated[int, Field(ge=100)] = 50_000
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the segments that are kept
