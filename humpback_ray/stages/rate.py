"""Self-curation, first half: M_(t-1) gives every candidate pair a score from 1 to 5."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import LongPromptSettings, RatingSettings, SelectionSettings
from humpback_ray.corpus.order_statistics import of_floats, quantile
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.method import prompts, rating, tokens
from humpback_ray.rows import Finish, RatedPair, RatingOutcome
from humpback_ray.serving.endpoint import EndpointPool, EndpointTask, try_and_count
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.missing_rows import RowFolders
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel, row_seed
from humpback_ray.stages.choosing import compared
from humpback_ray.stages.generating import GeneratingStage

# Outcomes of pairs that no rater could have scored; they do not speak against the rater.
NOT_PUT_TO_RATER = (
    RatingOutcome.NO_INSTRUCTION, RatingOutcome.CUT_INSTRUCTION, RatingOutcome.PROMPT_TOO_LONG,
)  # fmt: skip
NUM_SHOWN_FAILURES = 5
WORK = "_choice"  # folder of the files from which the figures of the scores come
# Room for `Score: N` with some Markdown around it, where an endpoint writes the `Score:` too.
MAX_SCORE_TOKENS = 16
PROBE = "Reply with one line: Score: 3"


@dataclass(frozen=True, kw_only=True)
class Rate(GeneratingStage):
    """One RatedPair per Candidate, scored by M_(t-1) or by the model behind an endpoint."""

    kind: ClassVar[str] = "rate"
    version: ClassVar[int] = 4
    part: ClassVar[Part] = "rate"

    candidates: Stage | Source
    rater: Stage | Source | None  # None: the endpoint's model rates
    iteration: int
    settings: RatingSettings
    template: str
    long_prompts: LongPromptSettings

    @property
    def uses_engines(self) -> bool:
        """False where an endpoint rates."""
        return self.settings.endpoint is None

    def wording(self) -> dict[str, str]:
        """The sentence that asks for the score, and the turn markers of the engines' prompts."""
        answer_format = prompts.REASON_THEN_SCORE if self.reasons else prompts.SCORE_ONLY
        turns = {"turns": prompts.render("")} if self.uses_engines else {}
        return {"answer_format": answer_format, **turns}

    def unread(self) -> set[str]:
        """`expected` draws no seeds, and an endpoint has its own dtype and context length."""
        of_seeds = set() if self.reasons else {"random_seed", "iteration"}
        of_engines = set() if self.uses_engines else {"context_length", "dtype", "long_prompts"}
        return of_seeds | of_engines

    @property
    def reasons(self) -> bool:
        """The rater writes its reasons before the score."""
        return self.settings.reasons

    def run(self, context: Context) -> Result:
        """Write one `RatedPair` for each candidate, whatever became of its rating.

        `mean` rates every candidate several times: the samples are rows of their own under
        `samples`, and the pair's score is the mean of those that parsed.

        Raises:
            UserError: fewer pairs have a score than the settings ask for, with five failures.
        """
        is_mean = self.settings.method == "mean"
        work = GenerationPass(
            context.of(self.candidates, "rows"),
            context.path("samples" if is_mean else "rows"),
            self.row_task(context),
            self.long_prompts if self.uses_engines else LongPromptSettings(),
            partial(_repeated, num_samples=self.settings.num_samples) if is_mean else None,
            self.settings.num_samples if is_mean else 1,
            self.endpoint_pool if self.settings.endpoint else None,
        )
        figures = generate(context, work)
        if is_mean:
            _write_means(work.folders, context.path("rows"), self.settings.min_scored_samples)
        return _result(context, self.settings, figures)

    def row_task(self, context: Context) -> RowTask:
        """The request of a candidate to the rater, and the way from the answer to a `RatedPair`."""
        return RowTask(
            model=self._rater_model(context),
            id_column="candidate_id",
            row_type=RatedPair,
            to_request=self.to_request,
            to_row=self.to_rated_pair,
            long_column="response",
        )

    def _rater_model(self, context: Context) -> ServedModel:
        """The rater as the engines load it; an empty model behind an endpoint."""
        if self.rater is None:
            return ServedModel("", 0, "")
        quantization = None if self.settings.weights == "as_stored" else self.settings.weights
        # Logits of 16 bits have steps of an eighth of a nat between 16 and 32.
        return self.served(context, self.rater, quantization, head_dtype="float32")

    def endpoint_pool(self, placement: Placement) -> EndpointPool:
        """The rater behind the endpoint of the settings, after one request shows that it rates.

        Raises:
            UserError: the key is not set, or the endpoint does not answer as the settings need it.
        """
        served, limits = self.settings.endpoint, placement.endpoint
        assert served is not None
        reply, num_sent = try_and_count(served, limits, self._chat_request(PROBE, 0))
        generation = generation_of(reply, self.settings)
        if generation.finish not in (Finish.STOP, Finish.LENGTH):
            raise UserError(
                f"{served.url} cannot rate as {served.model}: {generation.text} (see "
                "settings.rating.endpoint and placement.endpoint)"
            )
        task = EndpointTask(self.to_chat_request, self.from_chat_reply, RatedPair)
        return EndpointPool(task, served, limits, num_sent)

    def seed_of(self, row: dict[str, Any]) -> int:
        """The sampling seed of a row."""
        return row_seed(self.random_seed, row["candidate_id"], f"rate-{self.iteration}")

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """The rating prompt of a pair; with `expected` it continues to the rater's `Score:`."""
        if _missing_instruction(row):
            return Request([], 1)
        ids = tokens.rating_ids(
            tokenizer,
            string.Template(self.template),
            row["instruction"],
            row["response"],
            reasoning=self.reasons,
        )
        if not self.reasons:
            start, grades = tokens.grade_ids(tokenizer, self.settings.grades)
            return Request(ids + start, max_tokens=1, temperature=0.0, wanted_ids=grades)
        sampling = self.settings.sampling
        return Request(
            ids,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=self.seed_of(row),
        )

    def to_chat_request(self, row: dict[str, Any]) -> ChatRequest | None:
        """The rating prompt of a pair for a server that renders its own chat template."""
        if _missing_instruction(row):
            return None
        text = prompts.rating_prompt(
            string.Template(self.template),
            row["instruction"],
            row["response"],
            reasoning=self.reasons,
        )
        return self._chat_request(text, self.seed_of(row) if self.reasons else 0)

    def _chat_request(self, text: str, seed: int) -> ChatRequest:
        served = self.settings.endpoint
        assert served is not None
        if self.reasons:
            sampling = self.settings.sampling
            return ChatRequest(
                text, sampling.max_tokens, sampling.temperature, sampling.top_p, seed
            )
        return ChatRequest(text, MAX_SCORE_TOKENS, top_logprobs=served.num_top_tokens)

    def from_chat_reply(self, row: dict[str, Any], reply: ChatReply) -> dict[str, Any]:
        """A pair and the endpoint's reply as the fields of a `RatedPair`."""
        return self.to_rated_pair(row, generation_of(reply, self.settings))

    def to_rated_pair(self, row: dict[str, Any], generation: Generation) -> dict[str, Any]:
        """A pair and the rater's answer as the fields of a `RatedPair`."""
        score: float | None = None
        probabilities: list[float] | None = None
        mass: float | None = None
        grades = self.settings.grades
        if missing := _missing_instruction(row):
            outcome = missing
        elif generation.finish is Finish.EMPTY_PROMPT:
            outcome = RatingOutcome.NO_INSTRUCTION
        elif not self.reasons and generation.wanted_logprobs:
            probabilities = rating.grade_probabilities(generation.wanted_logprobs)
            mass = rating.grade_mass(generation.wanted_logprobs)
            is_grade = probabilities is not None and mass >= self.settings.min_grade_mass
            outcome = RatingOutcome.SCORED if is_grade else RatingOutcome.NO_GRADE
            if probabilities is not None and is_grade:
                score = rating.expected_grade(probabilities, grades)
        else:
            score, outcome = rating.parse_rating(generation.text, generation.finish, grades)
        is_beside_grade = outcome is RatingOutcome.SCORED and not self.reasons
        return {
            "candidate_id": row["candidate_id"],
            "segment_id": row["segment_id"],
            "instruction": row["instruction"],
            "response": row["response"],
            "score": None if score is None else float(score),
            "probabilities": probabilities,
            "grade_mass": mass,
            "num_scored_samples": int(score is not None),
            "outcome": outcome.value,
            # An engine's word on its own failure is kept, text beside a grade is not.
            "rationale": "" if is_beside_grade else generation.text.strip(),
            "was_cut": row.get("was_cut", False),
            "num_prompt_tokens": generation.num_prompt_tokens,
            "num_cached_tokens": generation.num_cached_tokens,
            "num_generated_tokens": generation.num_generated_tokens,
        }


def generation_of(reply: ChatReply, settings: RatingSettings) -> Generation:
    """An endpoint's reply in the form of an engine's answer.

    For `expected` it has the grades' log-probabilities, and a reply without any is an ENGINE_ERROR.
    """
    text, finish = reply.text, reply.finish
    logprobs: tuple[float, ...] = ()
    if settings.method == "expected" and finish in (Finish.STOP, Finish.LENGTH):
        answer = [rating.AnswerToken(each.text, each.logprobs) for each in reply.tokens or ()]
        logprobs = rating.grade_logprobs(answer, settings.grades)
        score, _ = rating.parse_rating(text, Finish.STOP, settings.grades)
        if reply.tokens is None or (score is not None and not logprobs):
            finish = Finish.ENGINE_ERROR
            text = (
                "the server gives no log-probabilities with the grade: "
                "set settings.rating.method=text"
            )
    return Generation(
        text=text,
        finish=finish,
        num_prompt_tokens=reply.num_prompt_tokens,
        num_generated_tokens=reply.num_generated_tokens,
        num_cached_tokens=reply.num_cached_tokens,
        wanted_logprobs=logprobs,
    )


def rating_template(path: str | None, rubric: str) -> str:
    """The text of a rubric, or of a user's file in its place.

    Raises:
        UserError: no such file, or a text that cannot be filled in.
    """
    if path is None:
        return prompts.RUBRICS[rubric].template
    text = storage.read_text(path, "rating template", "settings.prompts.rating_template")
    try:
        return prompts.rating_template(text).template
    except UserError as error:
        raise UserError(f"rating template {path}: {error}") from error


def _missing_instruction(row: dict[str, Any]) -> RatingOutcome | None:
    """The outcome of a candidate without a whole instruction: no rater is asked about it."""
    if not row["instruction"]:
        return RatingOutcome.NO_INSTRUCTION
    # Half a sentence or an endless loop, which no model must learn from.
    if row.get("finish") == Finish.LENGTH:
        return RatingOutcome.CUT_INSTRUCTION
    return None


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


def _write_means(samples: RowFolders, target: str, min_scored: int) -> None:
    """The samples of each candidate as one row: the mean score, the first scored rationale.

    All samples of a candidate lie in one shard, so a task holds one shard and the driver none.
    """
    shards = samples.answers_by_shard()
    ray.get([_write_means_of_shard.remote(samples, *shard, target, min_scored) for shard in shards])


@ray.remote
def _write_means_of_shard(
    samples: RowFolders, key: str, files: tuple[str, ...], target: str, min_scored: int
) -> None:
    filesystem, _ = storage.arrow_filesystem(samples.target)
    table = pa.concat_tables(tables.read_file(filesystem, file) for file in files)
    by_candidate: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.sort_by("candidate_id").to_pylist():
        by_candidate[row["candidate_id"].rpartition("/")[0]].append(row)
    rows = (_mean(candidate_id, group, min_scored) for candidate_id, group in by_candidate.items())
    tables.write_rows(target, rows, RatedPair, name=key)


def _mean(candidate_id: str, samples: list[dict[str, Any]], min_scored: int) -> dict[str, Any]:
    scored = [row for row in samples if row["score"] is not None]
    first = (scored or samples)[0]
    is_scored = len(scored) >= min_scored
    # Without a single score the first failure is the pair's outcome.
    outcome = RatingOutcome.TOO_FEW_SAMPLES.value if scored and not is_scored else first["outcome"]
    return first | {
        "candidate_id": candidate_id,
        "score": sum(row["score"] for row in scored) / len(scored) if is_scored else None,
        "outcome": outcome,
        "num_scored_samples": len(scored),
        "was_cut": any(row["was_cut"] for row in samples),
        "num_prompt_tokens": sum(row["num_prompt_tokens"] for row in samples),
        "num_cached_tokens": sum(row["num_cached_tokens"] for row in samples),
        "num_generated_tokens": sum(row["num_generated_tokens"] for row in samples),
    }


def _result(context: Context, settings: RatingSettings, figures: dict[str, Any]) -> Result:
    folder = context.path("rows")
    outcomes = tables.count_values(folder, "outcome")
    num_rated = outcomes.total() - sum(outcomes[outcome.value] for outcome in NOT_PUT_TO_RATER)
    num_scored = outcomes[RatingOutcome.SCORED.value]
    share = num_scored / num_rated if num_rated else 0.0
    masses = ray.get(_mass_figures.remote(folder))
    if share < settings.required_scored_share:
        median_mass = masses.get("median_grade_mass")
        raise UserError(_too_few_scores(folder, outcomes, share, settings, median_mass))
    of_scores = _score_figures(context)
    assert sum(of_scores["scores"].values()) == num_scored
    return Result(
        outcomes.total(),
        {name: count for name, count in outcomes.items() if count},
        {
            "scored_share": round(share, 4),
            **of_scores,
            **masses,
            **tables.token_figures(folder),
            **figures,
        },
    )


def _score_figures(context: Context) -> dict[str, Any]:
    """Figures from which a person chooses k."""
    work = context.path(WORK)
    storage.delete(work)  # the rows of a run that was killed may lie in other files by now
    pairs = compared(
        context.path("rows"), work, SelectionSettings(), partial(run_tasks, context.progress)
    )
    num_scored = pairs.num_scored
    figures = {
        "mean_score": round(pairs.sum_of_scores / num_scored, 4) if num_scored else None,
        # By the first score of a bin that is a tenth of a grade wide.
        "scores": {f"{tenth / 10:.1f}": pairs.tenths[tenth] for tenth in sorted(pairs.tenths)},
        # Of the best candidates of the segments, among which a selection chooses.
        "thresholds": pairs.thresholds(),
    }
    storage.delete(work)
    return figures


@ray.remote
def _mass_figures(folder: str) -> dict[str, float]:
    """Quantiles of the probability that a grade follows `Score:`, where it is known."""

    def keys() -> Iterator[np.ndarray]:
        for batch in tables.scan(folder, ["grade_mass"]):
            yield of_floats(batch["grade_mass"].drop_null().to_numpy())[:, None]

    num_known = sum(map(len, keys()))
    if not num_known:
        return {}
    # Four significant digits and not decimals: a mass may be 1e-26.
    return {
        name: float(f"{quantile(keys, num_known, share):.4g}")
        for name, share in (("median_grade_mass", 0.5), ("grade_mass_5_percent", 0.05))
    }


def _too_few_scores(
    folder: str,
    outcomes: Counter[str],
    share: float,
    settings: RatingSettings,
    median_mass: float | None,
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
    hint = ""
    if outcomes[RatingOutcome.NO_GRADE.value] and median_mass is not None:
        hint = (
            f"A grade follows `Score:` with a probability of {median_mass:.2g} (median), "
            f"settings.rating.min_grade_mass asks for {settings.min_grade_mass:g}. "
        )
    return (
        f"only {share:.1%} of the pairs put to the rater have a score, "
        f"{settings.required_scored_share:.0%} are asked for "
        f"({', '.join(f'{count} {name}' for name, count in sorted(outcomes.items()) if count)}). "
        f"{hint}Some failures: {examples}. The ratings are kept: lower "
        "settings.rating.min_scored_share to go on with them, or choose another "
        "settings.rating.method"
    )
