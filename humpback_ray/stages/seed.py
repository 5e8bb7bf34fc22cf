"""The seed D: (instruction, output) pairs of people, out of a file or a dataset.

The paper takes an Open Assistant export, and of it first turns only, in English, with the reply
that people ranked best (rank 0).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import SeedSettings
from humpback_ray.corpus.hub_datasets import datasets_read
from humpback_ray.corpus.oasst import WITHOUT_ROOT
from humpback_ray.corpus.seed_formats import SETTING, read_seeds
from humpback_ray.corpus.seed_rows import check_seed
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import filters
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair


@dataclass(frozen=True, kw_only=True)
class Seed(Stage):
    """The seed D: pairs to train on, pairs held out for the loss, dropped ones with reasons."""

    kind: ClassVar[str] = "seed"
    version: ClassVar[int] = 3  # repeated pairs of Open Assistant
    part: ClassVar[Part] = "prepare"

    file: Source
    settings: SeedSettings
    random_seed: int

    def check(self, placement: Placement) -> None:
        """Refuse a dataset that is not reached."""
        for place in self.file.places:
            check_seed(place, SETTING)

    def run(self, context: Context) -> Result:
        """Write `rows` (trained on), `held_out` (kept for the held-out loss) and `dropped`."""
        settings = self.settings
        content = read_seeds(self.file.places, settings.language)
        pairs, dropped = content.pairs, content.dropped
        pairs.sort(key=lambda pair: shuffle_key(self.random_seed, pair.pair_id))
        held_out, rest = pairs[: settings.num_held_out], pairs[settings.num_held_out :]
        kept, shared = without_texts_of(held_out, rest)
        dropped += [
            DroppedSeed(p.pair_id, SeedOutcome.HELD_OUT_TEXT, p.instruction) for p in shared
        ]
        surplus = kept[settings.max_pairs :] if settings.max_pairs else []
        kept = kept[: settings.max_pairs]
        dropped += [DroppedSeed(p.pair_id, SeedOutcome.SURPLUS, p.instruction) for p in surplus]
        if not kept:
            raise UserError(
                f"the seed file {self.file.location} (settings.seed.path) has no pair left to "
                "train on: " + (content.problem or _counts(dropped, held_out))
            )
        tables.write_rows(context.path("rows"), kept, SeedPair)
        tables.write_rows(context.path("held_out"), held_out, SeedPair)
        tables.write_rows(context.path("dropped"), dropped, DroppedSeed)
        outcomes = Counter(row.outcome.value for row in dropped)
        outcomes[SeedOutcome.KEPT.value] = len(kept)
        outcomes[SeedOutcome.HELD_OUT.value] = len(held_out)
        if content.num_without_root:
            context.progress.note(f"{content.num_without_root} {WITHOUT_ROOT}")
        figures = {**content.figures, **datasets_read(self.file.places, SETTING)}
        return Result(outcomes.total(), outcomes, figures)


def shuffle_key(random_seed: int, pair_id: str) -> str:
    """The place of a pair in the order of the draw, whatever the order of the file."""
    return hashlib.sha256(f"{random_seed}/{pair_id}".encode()).hexdigest()


def without_texts_of(
    held_out: list[SeedPair], pairs: list[SeedPair]
) -> tuple[list[SeedPair], list[SeedPair]]:
    """Pairs whose texts are in no held-out pair, and the others: a loss on known text is none."""
    texts = {filters.normalise(text) for p in held_out for text in (p.instruction, p.response)}
    apart: list[SeedPair] = []
    shared: list[SeedPair] = []
    for pair in pairs:
        own = {filters.normalise(pair.instruction), filters.normalise(pair.response)}
        (shared if own & texts else apart).append(pair)
    return apart, shared


def _counts(dropped: list[DroppedSeed], held_out: list[SeedPair]) -> str:
    counts = Counter(row.outcome.value for row in dropped)
    words = [f"{number} {name}" for name, number in sorted(counts.items())]
    return ", ".join([*words, f"{len(held_out)} held out (settings.seed.num_held_out)"])
