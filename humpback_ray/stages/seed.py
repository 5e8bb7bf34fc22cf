"""The seed D: (instruction, output) pairs out of an Open Assistant export.

The paper keeps first turns only, in English, with the reply that people ranked best (rank 0).
"""

from __future__ import annotations

import hashlib

from humpback_ray import tables
from humpback_ray.config.settings import SeedSettings
from humpback_ray.corpus.oasst import pairs_of, read_messages
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Context, Result
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair


def run(context: Context, *, settings: SeedSettings, random_seed: int) -> Result:
    """Write `rows` (trained on), `held_out` (kept for the held-out loss) and `dropped`."""
    pairs, dropped = pairs_of(read_messages(settings.path), settings.language)
    pairs.sort(key=lambda pair: _shuffle_key(random_seed, pair.pair_id))
    held_out, kept = pairs[: settings.num_held_out], pairs[settings.num_held_out :]
    surplus = kept[settings.max_pairs :] if settings.max_pairs else []
    kept = kept[: settings.max_pairs]
    dropped += [DroppedSeed(p.pair_id, SeedOutcome.SURPLUS, p.instruction) for p in surplus]
    if not kept:
        raise UserError(
            f"the seed file {settings.path} has no pair left to train on: "
            f"{_count_words(dropped)}, {len(held_out)} held out (settings.seed.num_held_out)"
        )
    tables.write_rows(context.path("rows"), kept, SeedPair)
    tables.write_rows(context.path("held_out"), held_out, SeedPair)
    tables.write_rows(context.path("dropped"), dropped, DroppedSeed)
    outcomes = {SeedOutcome.KEPT.value: len(kept), SeedOutcome.HELD_OUT.value: len(held_out)}
    for row in dropped:
        outcomes[row.outcome.value] = outcomes.get(row.outcome.value, 0) + 1
    return Result(len(kept) + len(held_out) + len(dropped), outcomes)


def _shuffle_key(random_seed: int, pair_id: str) -> str:
    return hashlib.sha256(f"{random_seed}/{pair_id}".encode()).hexdigest()


def _count_words(dropped: list[DroppedSeed]) -> str:
    counts: dict[str, int] = {}
    for row in dropped:
        counts[row.outcome.value] = counts.get(row.outcome.value, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no first turn in it"
