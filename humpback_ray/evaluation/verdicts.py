"""A judge's verdicts as rows, and the known ones, so that nobody pays for a question twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from humpback_ray import storage, tables
from humpback_ray.evaluation.judging import Judged
from humpback_ray.rows import Comparison, KnownVerdict, Verdict, VerdictOutcome
from humpback_ray.serving.generate import GenerationPass


def is_answered(comparison: Mapping[str, Any]) -> bool:
    """True if both models have an answer, so that a judge can be asked."""
    return comparison["output"] is not None and comparison["opponent_output"] is not None


def shown(comparison: Mapping[str, Any]) -> tuple[str, str, str]:
    """Instruction, answer A, answer B."""
    own, other = comparison["output"], comparison["opponent_output"]
    pair = (own, other) if comparison["is_model_first"] else (other, own)
    return (comparison["instruction"], *pair)


def verdict_fields(comparison: Mapping[str, Any], judged: Judged, said: str) -> dict[str, Any]:
    """The fields of a `Verdict` on a comparison, without the counts of tokens."""
    kept = {name: comparison[name] for name in tables.arrow_schema(Comparison).names}
    return kept | {
        "preference": _turned(judged.preference_for_first, comparison["is_model_first"]),
        "letter_mass": judged.letter_mass,
        "outcome": judged.outcome.value,
        "said": said.strip(),
    }


def _turned(preference: float | None, is_model_first: bool) -> float | None:
    """From a preference for the first answer to one for the model, or back."""
    return preference if preference is None or is_model_first else 1 - preference


def is_asked_again(outcome: VerdictOutcome, *, of_endpoint: bool) -> bool:
    """True for a failed verdict that may succeed when the judge is asked once more.

    An engine gives the same answer to the same request, unless it failed. A server may have another
    model's wording, length or mood by then.
    """
    if outcome in (VerdictOutcome.JUDGED, VerdictOutcome.NO_ANSWER):
        return False
    return of_endpoint or outcome is VerdictOutcome.ENGINE_ERROR


# --- known verdicts -------------------------------------------------------------------------------


def keep(rows: str, known: str) -> None:
    """Add the judged rows of a folder to the known verdicts of their judge."""
    is_new = set(tables.id_column(rows, "key").to_pylist())
    is_new -= set(tables.id_column(known, "key").to_pylist())
    verdicts: dict[str, KnownVerdict] = {}
    columns = ["key", "letter_mass", "said", "is_model_first", "preference", "outcome"]
    for batch in tables.scan(rows, columns):
        for row in batch.to_pylist():
            if row["key"] in is_new and row["outcome"] == VerdictOutcome.JUDGED:
                preference = _turned(row["preference"], row["is_model_first"])
                assert preference is not None
                verdicts[row["key"]] = KnownVerdict(
                    row["key"], preference, row["letter_mass"], row["said"]
                )
    if verdicts:
        keys = "\n".join(sorted(verdicts))
        name = hashlib.sha256(keys.encode()).hexdigest()[:16]
        tables.write_rows(known, verdicts.values(), KnownVerdict, name)


def take_known(work: GenerationPass, known: str) -> int:
    """Save the known verdicts on comparisons without a verdict; returns the number saved."""
    verdicts = {row["key"]: row for batch in tables.scan(known) for row in batch.to_pylist()}
    saved = set(tables.id_column(work.target, "verdict_id").to_pylist())
    num_taken = 0
    for shard in work.folders.shards():
        filesystem, _ = storage.arrow_filesystem(work.source)
        rows = [
            _known_verdict(row, verdicts[row["key"]])
            for row in tables.read_file(filesystem, shard.source).to_pylist()
            if row["key"] in verdicts and row["verdict_id"] not in saved and is_answered(row)
        ]
        if rows:
            work.folders.save_shard(shard.key, tables.to_table(rows, Verdict))
        num_taken += len(rows)
    return num_taken


def _known_verdict(comparison: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    judged = Judged(VerdictOutcome.JUDGED, known["preference_for_first"], known["letter_mass"])
    return verdict_fields(comparison, judged, known["said"]) | dict.fromkeys(
        tables.TOKEN_COLUMNS, 0
    )
