"""Self-augmentation: M_yx writes the instruction x̂ for every segment y, once."""

from __future__ import annotations

from functools import partial
from typing import Any

from humpback_ray import tables
from humpback_ray.config import SamplingSettings
from humpback_ray.engines.vllm_generate import Generation, Model, Request, generate, row_seed
from humpback_ray.records import Candidate
from humpback_ray.stages.generation import run_pass
from humpback_ray.stages.stage import Context, Result
from humpback_ray.text import prompts, tokens


def run(
    context: Context,
    *,
    segments: str,
    backward_model: Model,
    tag: str,
    sampling: SamplingSettings,
    random_seed: int,
    engine: Any = generate,
) -> Result:
    """Write one `Candidate` for each segment; a generation that failed is one without instruction.

    Args:
        engine: what answers the rows; `vllm_generate.generate` or something with its signature.
    """
    run_pass(
        context,
        source=segments,
        target="rows",
        id_column="segment_id",
        row_type=Candidate,
        through=partial(
            engine,
            model=backward_model,
            engine=context.placement.engine,
            to_request=partial(to_request, tag=tag, sampling=sampling, random_seed=random_seed),
            to_row=to_candidate,
        ),
    )
    outcomes = tables.count_values(context.path("rows"), "finish")
    return Result(outcomes.total(), outcomes, token_figures(context.path("rows")))


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
        seed=row_seed(random_seed, row["segment_id"], "augment"),
    )


def to_candidate(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """A segment and what was generated for it as the fields of a `Candidate`."""
    return {
        "candidate_id": f"{row['segment_id']}-0",
        "segment_id": row["segment_id"],
        "instruction": generation.text.strip(),
        "response": row["text"],
        "finish": generation.finish.value,
        "num_prompt_tokens": generation.num_prompt_tokens,
        "num_generated_tokens": generation.num_generated_tokens,
    }


def token_figures(folder: str) -> dict[str, int]:
    """Totals of the token columns, from the rows on disk."""
    columns = ["num_prompt_tokens", "num_generated_tokens"]
    table = tables.read_table(folder, columns)
    return {name: sum(table[name].to_pylist()) for name in columns}
