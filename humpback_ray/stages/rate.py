"""Self-curation, first half: M_(t-1) gives every candidate pair a score from 1 to 5."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from humpback_ray import storage, tables
from humpback_ray.config import RatingSettings
from humpback_ray.engines.vllm_generate import Generation, Model, Request, generate, row_seed
from humpback_ray.records import Candidate, Finish, RatedPair, RatingOutcome
from humpback_ray.stages.augment import token_figures
from humpback_ray.stages.generation import run_pass
from humpback_ray.stages.stage import Context, Result
from humpback_ray.text import prompts, rating, tokens

# Outcomes of pairs that no rater could have scored; they do not speak against the rater.
NOT_PUT_TO_RATER = (RatingOutcome.NO_INSTRUCTION, RatingOutcome.PROMPT_TOO_LONG)
NUM_SHOWN_FAILURES = 5


def run(
    context: Context,
    *,
    candidates: str,
    rater: Model,
    template: str,
    settings: RatingSettings,
    iteration: int,
    random_seed: int,
    engine: Any = generate,
) -> Result:
    """Write one `RatedPair` for each candidate, whatever became of its rating.

    `mean` rates every candidate several times: the samples are rows of their own under `samples`,
    and the pair's score is the mean of those that parsed.

    Raises:
        ValueError: fewer pairs have a score than the settings ask for, with five of the failures.
    """
    samples_wanted = settings.method == "mean"
    source, target = candidates, "rows"
    if samples_wanted:
        source, target = context.path("_samples_wanted"), "samples"
        _write_samples_wanted(candidates, source, settings.num_samples)
    run_pass(
        context,
        source=source,
        target=target,
        id_column="candidate_id",
        row_type=RatedPair,
        through=partial(
            engine,
            model=rater,
            engine=context.placement.engine,
            to_request=partial(
                to_request, template=template, settings=settings, iteration=iteration,
                random_seed=random_seed,
            ),
            to_row=partial(to_rated_pair, method=settings.method),
        ),
    )  # fmt: skip
    if samples_wanted:
        _write_means(context.path("samples"), context.path("rows"))
        storage.delete(source)
    return _result(context.path("rows"), settings)


def to_request(
    row: dict[str, Any],
    tokenizer: Any,
    *,
    template: str,
    settings: RatingSettings,
    iteration: int,
    random_seed: int,
) -> Request:
    """The rating prompt of a pair; for `expected` it goes on to `Score:` in its own turn."""
    if not row["instruction"]:
        return Request([], 1)
    reasoning = settings.method != "expected"
    ids = tokens.prompt_ids(
        tokenizer,
        prompts.rating_prompt(
            string.Template(template), row["instruction"], row["response"], reasoning=reasoning
        ),
    )
    if not reasoning:
        start, grades = tokens.grade_ids(tokenizer)
        return Request(ids + start, max_tokens=1, temperature=0.0, wanted_ids=grades)
    return Request(
        ids,
        max_tokens=settings.sampling.max_tokens,
        temperature=settings.sampling.temperature,
        top_p=settings.sampling.top_p,
        seed=row_seed(random_seed, row["candidate_id"], f"rate-{iteration}"),
    )


def to_rated_pair(row: dict[str, Any], generation: Generation, *, method: str) -> dict[str, Any]:
    """A pair and what the rater gave back as the fields of a `RatedPair`."""
    score: float | None = None
    probabilities: list[float] | None = None
    if generation.finish is Finish.EMPTY_PROMPT:
        outcome = RatingOutcome.NO_INSTRUCTION
    elif method == "expected" and generation.wanted_logprobs:
        probabilities = rating.grade_probabilities(generation.wanted_logprobs)
        outcome = RatingOutcome.SCORED if probabilities else RatingOutcome.NO_SCORE_LINE
        score = rating.expected_grade(probabilities) if probabilities else None
    else:
        score, outcome = rating.parse_rating(generation.text, generation.finish)
    return {
        "candidate_id": row["candidate_id"],
        "instruction": row["instruction"],
        "response": row["response"],
        "score": None if score is None else float(score),
        "probabilities": probabilities,
        "outcome": outcome.value,
        "rationale": generation.text.strip() if method != "expected" else "",
        "num_prompt_tokens": generation.num_prompt_tokens,
        "num_generated_tokens": generation.num_generated_tokens,
    }


def _write_samples_wanted(candidates: str, target: str, num_samples: int) -> None:
    """Every candidate `num_samples` times under ids of their own: resume needs unique ids."""
    storage.delete(target)
    filesystem, path = storage.arrow_filesystem(candidates)
    dataset = ray.data.read_parquet(path, filesystem=filesystem).map_batches(
        partial(_repeated, num_samples=num_samples), batch_format="pyarrow"
    )
    target_filesystem, target_path = storage.arrow_filesystem(target)
    dataset.write_parquet(target_path, filesystem=target_filesystem)


def _repeated(table: pa.Table, num_samples: int) -> pa.Table:
    rows = [
        row | {"candidate_id": f"{row['candidate_id']}/{sample}"}
        for row in table.to_pylist()
        for sample in range(num_samples)
    ]
    return tables.to_table(rows, Candidate)


def _write_means(samples: str, target: str) -> None:
    """The samples of each candidate as one row: the mean score, the first scored rationale."""
    by_candidate: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(tables.read_table(samples).to_pylist(), key=lambda r: r["candidate_id"]):
        by_candidate[row["candidate_id"].rpartition("/")[0]].append(row)
    rows = (_mean(candidate_id, group) for candidate_id, group in by_candidate.items())
    tables.write_rows(target, rows, RatedPair)


def _mean(candidate_id: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    scored = [row for row in samples if row["score"] is not None]
    first = (scored or samples)[0]
    return first | {
        "candidate_id": candidate_id,
        "score": sum(row["score"] for row in scored) / len(scored) if scored else None,
        "num_prompt_tokens": sum(row["num_prompt_tokens"] for row in samples),
        "num_generated_tokens": sum(row["num_generated_tokens"] for row in samples),
    }


def _result(folder: str, settings: RatingSettings) -> Result:
    outcomes = tables.count_values(folder, "outcome")
    num_rated = outcomes.total() - sum(outcomes[outcome.value] for outcome in NOT_PUT_TO_RATER)
    num_scored = outcomes[RatingOutcome.SCORED.value]
    share = num_scored / num_rated if num_rated else 0.0
    if share < settings.required_scored_share:
        raise ValueError(_too_few_scores(folder, outcomes, share, settings))
    scores = tables.read_table(folder, ["score"])["score"].drop_null().to_pylist()
    histogram = Counter(f"from_{int(score)}" for score in scores)
    return Result(
        outcomes.total(),
        {name: count for name, count in outcomes.items() if count},
        {
            "scored_share": round(share, 4),
            "mean_score": round(sum(scores) / len(scores), 4),
            "scores": dict(sorted(histogram.items())),
            **token_figures(folder),
        },
    )


def _too_few_scores(
    folder: str, outcomes: Counter[str], share: float, settings: RatingSettings
) -> str:
    failures = tables.read_table(folder, ["candidate_id", "outcome", "rationale"]).to_pylist()
    passed = {RatingOutcome.SCORED.value, *(outcome.value for outcome in NOT_PUT_TO_RATER)}
    shown = [row for row in failures if row["outcome"] not in passed][:NUM_SHOWN_FAILURES]
    examples = "; ".join(
        f"{row['outcome']} ({row['candidate_id']}): {row['rationale'][-120:]!r}" for row in shown
    )
    return (
        f"only {share:.1%} of the pairs put to the rater have a score, "
        f"{settings.required_scored_share:.0%} are asked for "
        f"({', '.join(f'{count} {name}' for name, count in sorted(outcomes.items()) if count)}). "
        f"Some failures: {examples}. The ratings are kept: lower "
        "settings.rating.min_scored_share to go on with them, or choose another "
        "settings.rating.method"
    )
