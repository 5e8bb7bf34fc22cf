"""Self-augmentation: M_yx writes the instruction x̂ for every segment y, once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import tables
from humpback_ray.config.settings import AugmentationSettings, LongPromptSettings
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import prompts, tokens
from humpback_ray.rows import Candidate, Finish
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.requests import Generation, Request, RowTask, row_seed
from humpback_ray.stages.generating import GeneratingStage


@dataclass(frozen=True, kw_only=True)
class Augment(GeneratingStage):
    """Candidates A: `num_candidates` instructions for each segment, one row each."""

    kind: ClassVar[str] = "augment"
    version: ClassVar[int] = 4
    part: ClassVar[Part] = "augment"

    segments: Stage | Source
    model: Stage | Source  # M_yx
    tag: str
    sampling: AugmentationSettings
    num_candidates: int
    long_prompts: LongPromptSettings

    def wording(self) -> dict[str, str]:
        """The backward request."""
        return {"template": prompts.BACKWARD_TEMPLATE.template}

    def run(self, context: Context) -> Result:
        """Write the candidates; a generation that failed is a row without an instruction.

        An instruction that was cut at the token limit stays in its row, and no rater is asked about
        it.
        """
        rows = context.path("rows")
        task = RowTask(
            model=self.served(context, self.model),
            id_column="candidate_id",
            row_type=Candidate,
            to_request=self.to_request,
            to_row=to_candidate,
            long_column="text",
        )
        expand = partial(_numbered, num_candidates=self.num_candidates)
        work = GenerationPass(
            context.of(self.segments, "rows"),
            rows,
            task,
            self.long_prompts,
            expand,
            self.num_candidates,
            source_id="segment_id",
        )
        figures = generate(context, work)
        outcomes = tables.count_values(rows, "finish")
        num_cut = outcomes[Finish.LENGTH.value]
        num_written = num_cut + outcomes[Finish.STOP.value]
        cut_share = num_cut / num_written if num_written else 0.0
        if cut_share > self.sampling.max_cut_share:
            context.progress.note(
                f"{cut_share:.1%} of the instructions are cut at {self.sampling.max_tokens} tokens "
                f"(max_cut_share is {self.sampling.max_cut_share:.1%}); these pairs are not rated: "
                "raise settings.augmentation.max_tokens"
            )
        figures = {"cut_share": round(cut_share, 4), **tables.token_figures(rows), **figures}
        return Result(outcomes.total(), outcomes, figures)

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """The backward prompt for a segment, exactly as M_yx saw it in training."""
        text, sampling = row["text"], self.sampling
        return Request(
            prompt_ids=tokens.prompt_ids(tokenizer, prompts.backward_prompt(text), self.tag)
            if text.strip()
            else [],
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=row_seed(self.random_seed, row["candidate_id"], "augment"),
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


def to_candidate(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """A segment and its generation as the fields of a `Candidate`."""
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
