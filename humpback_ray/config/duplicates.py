"""Settings of the search for near-duplicates."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from humpback_ray.config.fields import Frozen, PositiveInt, Share

MIN_FOUND_SHARE = 0.9  # of the near-duplicates at the threshold, by the bands


class NearDuplicateSettings(Frozen):
    """The search for near-duplicates, of which the paper says nothing.

    Texts that share all values of a band of their MinHash signatures are compared by their exact
    n-grams.
    """

    ngram: PositiveInt = 5  # words; what large corpora commonly use, as the Jaccard index of 0.8
    jaccard: Share = 0.8  # least Jaccard index of a near-duplicate and the kept text
    # 18 x 7 values find 98.6% of the pairs with a Jaccard index of 0.8; FineWeb's 14 x 8 (arXiv
    # 2406.17557) find 92.4%, and 21 x 6 find 99.8%.
    num_bands: PositiveInt = 18
    values_per_band: PositiveInt = 7
    # The package, its algorithm, and its version of it: others give other signatures.
    signature: Literal["rensa-r-minhash-2"] = "rensa-r-minhash-2"

    @model_validator(mode="after")
    def _finds_them(self) -> NearDuplicateSettings:
        share = 1 - (1 - self.jaccard**self.values_per_band) ** self.num_bands
        if share < MIN_FOUND_SHARE:
            raise ValueError(
                f"{self.num_bands} bands of {self.values_per_band} values find {share:.0%} of the "
                f"pairs with a Jaccard index of {self.jaccard:g}, at least {MIN_FOUND_SHARE:.0%} "
                "are asked for: lower values_per_band or raise num_bands"
            )
        return self


class InstructionDuplicateSettings(NearDuplicateSettings):
    """The same search among instructions, which are short: a changed word changes every n-gram."""

    ngram: PositiveInt = 2
    jaccard: Share = 0.7
    num_bands: PositiveInt = 25
    values_per_band: PositiveInt = 5
