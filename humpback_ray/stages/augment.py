"""Self-augmentation: M_yx writes the instruction x̂ for every segment y, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import tables
from humpback_ray.config.settings import LongPromptSettings, SamplingSettings
from humpback_ray.execution.stage import Context, Result
from humpback_ray.method import prompts, tokens
from humpback_ray.rows import Candidate
from humpback_ray.serving.generate import GenerationPass, run_pass, run_passes_at_once
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel, row_seed
from humpback_ray.serving.vllm_engine import VLLMEngine


def run(
    context: Context,
    *,
    work: GenerationPass,
    rating: GenerationPass,
    begin_rating: Callable[[], object],
) -> Result:
    """Write the candidates of every segment; a generation that failed is one without instruction.

    Args:
        work: what `candidates_of` gives.
        rating: the first rating of these candidates, done at the same time where the placement
            says so; its stage then finds its rows written.
        begin_rating: marks that stage as begun.
    """
    if context.placement.engine.one_stream:
        begin_rating()
        figures = run_passes_at_once(context, work, rating)
    else:
        figures = run_pass(context, work)
    rows = context.path("rows")
    outcomes = tables.count_values(rows, "finish")
    return Result(outcomes.total(), outcomes, {**tables.token_figures(rows), **figures})


def candidates_of(
    segments: str,
    *,
    target: str,
    backward_model: ServedModel,
    tag: str,
    sampling: SamplingSettings,
    num_candidates: int,
    long_prompts: LongPromptSettings,
    random_seed: int,
    make_engine: Callable[..., Any] = VLLMEngine,
) -> GenerationPass:
    """The pass that asks M_yx for `num_candidates` instructions for each segment."""
    task = RowTask(
        model=backward_model,
        id_column="candidate_id",
        row_type=Candidate,
        to_request=partial(to_request, tag=tag, sampling=sampling, random_seed=random_seed),
        to_row=to_candidate,
        long_column="text",
    )
    return GenerationPass(
        "augment",
        segments,
        target,
        task,
        long_prompts,
        expand=partial(_numbered, num_candidates=num_candidates),
        make_engine=make_engine,
    )


def _numbered(segments: pa.Table, num_candidates: int) -> pa.Table:
    """Every segment once for each of its candidates, with the candidate's id."""
    return pa.concat_tables(
        segments.append_column(
            "candidate_id",
            pc.binary_join_element_wise(segments["segment_id"], pa.scalar(str(number)), "-"),
        )
        for number in range(num_candidates)
    )


def to_request(
    row: dict[str, Any], tokenizer: Any, *, tag: str, sampling: SamplingSettings, random_seed: int
) -> Request:
    """The backward prompt for a segment, exactly as M_yx saw it in training."""
    text = row["text"]
    return Request(
        prompt_ids=tokens.prompt_ids(tokenizer, prompts.backward_prompt(text), tag)
        if text.strip()
        else [],
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=row_seed(random_seed, row["candidate_id"], "augment"),
    )


def to_candidate(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """A segment and what was generated for it as the fields of a `Candidate`."""
    return {
        "candidate_id": row["candidate_id"],
        "segment_id": row["segment_id"],
        "instruction": generation.text.strip(),
        "response": row["text"],
        "finish": generation.finish.value,
        "was_cut": row["was_cut"],
        "num_prompt_tokens": generation.num_prompt_tokens,
        "num_cached_tokens": generation.num_cached_tokens,
        "num_generated_tokens": generation.num_generated_tokens,
    }
