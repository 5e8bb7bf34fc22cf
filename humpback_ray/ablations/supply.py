"""Numbers of segments of a finished run whose score reaches some k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import tables
from humpback_ray.figures.stage_rows import hashes_of, scan
from humpback_ray.rows import RatedPair

ROWS_PER_PASS = 4_000_000  # of about 50 bytes


def segments_by_score(
    rated: str, thresholds: Iterable[float], rows_per_pass: int = ROWS_PER_PASS
) -> tuple[int, Mapping[float, int]]:
    """The number of segments with a score, and by each k the number of those that reach it.

    Several passes over the rows each take the segments of some hashes.

    Args:
        rated: folder of `RatedPair` rows.
    """
    thresholds = list(thresholds)
    num_passes = max(1, -(-tables.num_rows(rated) // rows_per_pass))
    num_segments, num_at_least = 0, Counter(dict.fromkeys(thresholds, 0))
    for number in range(num_passes):
        segments, scores = [np.empty(0, np.uint64)], [np.empty(0)]
        for batch in scan(rated, RatedPair, ["segment_id", "score"]):
            batch = batch.filter(pc.is_valid(batch["score"]))
            hashes = hashes_of(batch["segment_id"])
            is_of_pass = hashes % np.uint64(num_passes) == number
            segments.append(hashes[is_of_pass])
            scores.append(batch["score"].filter(pa.array(is_of_pass)).to_numpy())
        best = pd.Series(np.concatenate(scores)).groupby(np.concatenate(segments)).max()
        num_segments += len(best)
        num_at_least.update({k: int((best >= k).sum()) for k in thresholds})
    return num_segments, num_at_least
