"""Self-curation, first half: M_(t-1) gives every candidate pair a score from 1 to 5."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import LongPromptSettings, RatingSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Context, Result
from humpback_ray.method import prompts, rating, tokens
from humpback_ray.rows import Finish, RatedPair, RatingOutcome
from humpback_ray.serving import endpoint
from humpback_ray.serving.generate import GenerationPass, run_pass
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel, row_seed
from humpback_ray.serving.vllm_engine import VLLMEngine

# Outcomes of pairs that no rater could have scored; they do not speak against the rater.
NOT_PUT_TO_RATER = (RatingOutcome.NO_INSTRUCTION, RatingOutcome.PROMPT_TOO_LONG)
NUM_SHOWN_FAILURES = 5


def run(context: Context, *, work: GenerationPass, settings: RatingSettings) -> Result:
    """Write one `RatedPair` for each candidate, whatever became of its rating.

    `mean` rates every candidate several times: the samples are rows of their own under `samples`,
    and the pair's score is the mean of those that parsed.

    Args:
        work: what `ratings_of` gives.

    Raises:
        UserError: fewer pairs have a score than the settings ask for, with five of the failures.
    """
    figures = run_pass(context, work)
    if settings.method == "mean":
        _write_means(context.path("samples"), context.path("rows"))
    return _result(context.path("rows"), settings, figures)


def ratings_of(
    candidates: str,
    *,
    target: str,
    rater: ServedModel,
    template: str,
    settings: RatingSettings,
    long_prompts: LongPromptSettings,
    iteration: int,
    random_seed: int,
    make_engine: Callable[..., Any] = VLLMEngine,
) -> GenerationPass:
    """The pass that asks M_(t-1) for one rating of each candidate, or for several with `mean`."""
    task = RowTask(
        model=rater,
        id_column="candidate_id",
        row_type=RatedPair,
        to_request=partial(
            to_request, template=template, settings=settings, iteration=iteration,
            random_seed=random_seed,
        ),
        to_row=partial(to_rated_pair, settings=settings),
        long_column="response",
    )  # fmt: skip
    to_prompt = partial(
        to_endpoint_prompt, template=template, settings=settings, iteration=iteration,
        random_seed=random_seed,
    )  # fmt: skip
    samples = partial(_repeated, num_samples=settings.num_samples)
    return GenerationPass(
        f"rate-{iteration}",
        candidates,
        target,
        task,
        long_prompts,
        expand=samples if settings.method == "mean" else None,
        make_engine=make_engine,
        endpoint=partial(_endpoint, settings=settings, to_prompt=to_prompt, to_row=task.to_row)
        if settings.endpoint
        else None,
    )


def _endpoint(placement: Placement, **how: Any) -> endpoint.Endpoint:
    return endpoint.Endpoint(placement.endpoint, **how)


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
    ids = tokens.rating_ids(
        tokenizer,
        string.Template(template),
        row["instruction"],
        row["response"],
        reasoning=reasoning,
    )
    if not reasoning:
        start, grades = tokens.grade_ids(tokenizer, settings.grades)
        return Request(ids + start, max_tokens=1, temperature=0.0, wanted_ids=grades)
    return Request(
        ids,
        max_tokens=settings.sampling.max_tokens,
        temperature=settings.sampling.temperature,
        top_p=settings.sampling.top_p,
        seed=row_seed(random_seed, row["candidate_id"], f"rate-{iteration}"),
    )


def to_endpoint_prompt(
    row: dict[str, Any],
    *,
    template: str,
    settings: RatingSettings,
    iteration: int,
    random_seed: int,
) -> endpoint.Prompt | None:
    """The same prompt for a rater that is served elsewhere and renders its own chat template."""
    if not row["instruction"]:
        return None
    text = prompts.rating_prompt(
        string.Template(template),
        row["instruction"],
        row["response"],
        reasoning=settings.method != "expected",
    )
    return endpoint.Prompt(text, row_seed(random_seed, row["candidate_id"], f"rate-{iteration}"))


def to_rated_pair(
    row: dict[str, Any], generation: Generation, *, settings: RatingSettings
) -> dict[str, Any]:
    """A pair and what the rater gave back as the fields of a `RatedPair`."""
    score: float | None = None
    probabilities: list[float] | None = None
    text, is_text = generation.text.strip(), settings.method != "expected"
    if generation.finish is Finish.EMPTY_PROMPT:
        outcome = RatingOutcome.NO_INSTRUCTION
    elif settings.method == "expected" and generation.wanted_logprobs:
        probabilities = rating.grade_probabilities(generation.wanted_logprobs)
        outcome = RatingOutcome.SCORED if probabilities else RatingOutcome.NO_SCORE_LINE
        score = rating.expected_grade(probabilities, settings.grades) if probabilities else None
    else:
        score, outcome = rating.parse_rating(generation.text, generation.finish, settings.grades)
    return {
        "candidate_id": row["candidate_id"],
        "segment_id": row["segment_id"],
        "instruction": row["instruction"],
        "response": row["response"],
        "score": None if score is None else float(score),
        "probabilities": probabilities,
        "outcome": outcome.value,
        # What an engine says of its own failure is kept, what it says beside a grade is not.
        "rationale": "" if outcome is RatingOutcome.SCORED and not is_text else text,
        "was_cut": row.get("was_cut", False),
        "num_prompt_tokens": generation.num_prompt_tokens,
        "num_cached_tokens": generation.num_cached_tokens,
        "num_generated_tokens": generation.num_generated_tokens,
    }


def _repeated(table: pa.Table, num_samples: int) -> pa.Table:
    """Every candidate `num_samples` times, under ids of their own: resume needs unique ids."""
    column = table.column_names.index("candidate_id")
    return pa.concat_tables(
        table.set_column(
            column,
            "candidate_id",
            pc.binary_join_element_wise(table["candidate_id"], pa.scalar(str(sample)), "/"),
        )
        for sample in range(num_samples)
    )


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
        "was_cut": any(row["was_cut"] for row in samples),
        "num_prompt_tokens": sum(row["num_prompt_tokens"] for row in samples),
        "num_cached_tokens": sum(row["num_cached_tokens"] for row in samples),
        "num_generated_tokens": sum(row["num_generated_tokens"] for row in samples),
    }


def _result(folder: str, settings: RatingSettings, figures: dict[str, Any]) -> Result:
    outcomes = tables.count_values(folder, "outcome")
    num_rated = outcomes.total() - sum(outcomes[outcome.value] for outcome in NOT_PUT_TO_RATER)
    num_scored = outcomes[RatingOutcome.SCORED.value]
    share = num_scored / num_rated if num_rated else 0.0
    if share < settings.required_scored_share:
        raise UserError(_too_few_scores(folder, outcomes, share, settings))
    histogram: Counter[str] = Counter()
    sum_of_scores = 0.0
    for batch in tables.scan(folder, ["score"]):
        scores = batch["score"].drop_null()
        sum_of_scores += pc.sum(scores).as_py() or 0.0
        histogram.update(f"from_{int(score)}" for score in scores.to_pylist())
    return Result(
        outcomes.total(),
        {name: count for name, count in outcomes.items() if count},
        {
            "scored_share": round(share, 4),
            "mean_score": round(sum_of_scores / num_scored, 4) if num_scored else None,
            "scores": dict(sorted(histogram.items())),
            **tables.token_figures(folder),
            **figures,
        },
    )


def _too_few_scores(
    folder: str, outcomes: Counter[str], share: float, settings: RatingSettings
) -> str:
    passed = {RatingOutcome.SCORED.value, *(outcome.value for outcome in NOT_PUT_TO_RATER)}
    batches = tables.scan(folder, ["candidate_id", "outcome", "rationale"])
    failures = (
        row for batch in batches for row in batch.to_pylist() if row["outcome"] not in passed
    )
    shown = list(islice(failures, NUM_SHOWN_FAILURES))
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
