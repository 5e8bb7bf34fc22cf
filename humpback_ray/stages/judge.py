"""Games between the run's models, the base and published outputs, decided by a judge.

answers of all models ── pairs in both orders ── one verdict for each ── win rates, controls
                                 │                     │
                                 └── RUN/verdicts ◄────┘  never asked again, whatever changes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import EvaluationSettings, JudgeSettings
from humpback_ray.errors import UserError
from humpback_ray.evaluation import (
    alpaca_files,
    alpaca_length,
    games,
    judging,
    published,
    verdicts,
)
from humpback_ray.evaluation.contest import Contest, contest_of
from humpback_ray.evaluation.endpoint_judge import EndpointJudge
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.execution.sources import model_source
from humpback_ray.execution.stage import (
    NOT_HASHED,
    Begun,
    Context,
    Part,
    Result,
    Source,
    Stage,
    StageRecord,
    State,
)
from humpback_ray.method import tokens
from humpback_ray.rows import Comparison, Evaluated, TaskKind, Verdict, VerdictOutcome
from humpback_ray.serving.endpoint import EndpointPool
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.generating import GeneratingStage
from humpback_ray.stages.other_answers import OtherAnswers

VERDICTS = "verdicts"  # folder below the run's, of verdicts by judge


@dataclass(frozen=True)
class _Tried:
    """An endpoint and the way to read its verdicts, as a file keeps them."""

    judge: str
    verdicts_by: VerdictsBy


@dataclass(frozen=True, kw_only=True)
class Judge(GeneratingStage):
    """A verdict for each pair of answers in each order, and the win rates that follow."""

    kind: ClassVar[str] = "judge"
    version: ClassVar[int] = 3
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    # In the order of training; `inputs` has them by their models' names.
    evaluations: tuple[Evaluate, ...] = field(metadata=NOT_HASHED)
    judge: Stage | Source | None  # None: the endpoint's model judges
    reference: Source | None  # a file of published outputs; None: M_0
    compared: Source | None  # more such files
    settings: JudgeSettings
    others: tuple[OtherAnswers, ...] = field(default=(), metadata=NOT_HASHED)  # as `evaluations`

    @property
    def uses_engines(self) -> bool:
        """False where an endpoint judges."""
        return self.settings.endpoint is None

    @cached_property
    def inputs(self) -> dict[str, Stage | Source]:
        """The judge, the files, and every model's answers."""
        answers: tuple[Evaluate | OtherAnswers, ...] = (*self.evaluations, *self.others)
        return super().inputs | {f"answers_of_{each.name}": each for each in answers}

    def wording(self) -> dict[str, str]:
        """The judge's question, and the answers of the controls."""
        return judging.wording()

    def unread(self) -> set[str]:
        """An endpoint has its own dtype and context length."""
        return set() if self.uses_engines else {"context_length", "dtype"}

    def check(self, placement: Placement) -> None:
        """Refuse an interpreter for AlpacaEval's own figures that cannot compute them."""
        super().check(placement)
        alpaca_length.check(placement.alpaca_eval)

    def find(self, run_folder: str) -> tuple[State, StageRecord | Begun | None]:
        """As every stage; done with failed verdicts that may succeed is not done."""
        state, record = super().find(run_folder)
        if state is State.DONE and isinstance(record, StageRecord):
            failed = [name for name in self._outcomes_asked_again if record.outcomes.get(name)]
            return (State.STARTED if failed else State.DONE), record
        return state, record

    @property
    def _outcomes_asked_again(self) -> list[str]:
        return [
            outcome.value
            for outcome in VerdictOutcome
            if verdicts.is_asked_again(outcome, of_endpoint=not self.uses_engines)
        ]

    def run(self, context: Context) -> Result:
        """Write a `Verdict` for each comparison, AlpacaEval's files, and the figures."""
        contest = self._contest(context)
        by, num_sent = self._verdicts_by(context)
        asked = games.comparisons(
            contest.contestants, contest.prompts, contest.answers,
            self.settings.num_control_prompts, partial(self.question_key, by=by),
        )  # fmt: skip
        tables.write_rows(context.path("_comparisons"), asked, Comparison)
        figures = self._verdicts(context, by, num_sent)
        storage.delete(context.path("_comparisons"))
        return self._result(context, contest, by, figures)

    def _contest(self, context: Context) -> Contest:
        def answers(stages: Sequence[Evaluate | OtherAnswers]) -> dict[str, list[Evaluated]]:
            return {
                each.name: [
                    row
                    for row in tables.read_rows(context.of(each, "rows"), Evaluated)
                    if row.kind is TaskKind.ANSWER
                ]
                for each in stages
            }

        reference, compared = (
            context.of(source) if source else None for source in (self.reference, self.compared)
        )
        outputs = published.read_published(reference, compared)
        return contest_of(
            answers(self.evaluations), outputs, has_reference=reference is not None,
            others=answers(self.others),
        )  # fmt: skip

    def _verdicts(self, context: Context, by: VerdictsBy, num_sent: int) -> dict[str, Any]:
        """Write a row for each comparison; returns figures of the work.

        Known verdicts are taken, failed ones that may succeed are dropped, and the judge is asked
        for the rest.
        """
        rows, known = (
            context.path("rows"),
            storage.join(self._known_folder(context), by.name.lower()),
        )
        pool = partial(self._endpoint_pool, by=by, num_sent=num_sent)
        work = GenerationPass(
            context.path("_comparisons"),
            rows,
            self.row_task(context),
            endpoint=None if self.uses_engines else pool,
        )
        verdicts.keep(rows, known)  # those of a command that was killed
        outcomes = pa.array(self._outcomes_asked_again, pa.string())
        work.folders.drop(lambda table: pc.is_in(table["outcome"], value_set=outcomes))
        num_reused = verdicts.take_known(work, known)
        try:
            figures = generate(context, work)
        finally:
            verdicts.keep(rows, known)
        return {**figures, "num_reused": num_reused}

    def _result(
        self, context: Context, contest: Contest, by: VerdictsBy, figures: Mapping[str, Any]
    ) -> Result:
        rows = tables.read_rows(context.path("rows"), Verdict)
        of_games = games.figures(rows, contest.contestants, self.name, by, self.random_seed)
        by_pair = {(each["model"], each["opponent"]): each for each in of_games["games"]}
        reference = contest.contestants.reference
        against_reference = [
            (game, by_pair[game.model, game.opponent])
            for game in games.games_of(rows)
            if not game.is_control and game.opponent == reference
        ]
        folder = context.path("alpaca_eval")
        alpaca_files.write_files(
            folder, contest.prompts, contest.answers, against_reference, self.name
        )
        by_alpaca_eval = alpaca_length.own_length_control(
            context.placement.alpaca_eval,
            contest.prompts,
            {
                game.model: alpaca_files.annotations_path(folder, game.model)
                for game, found in against_reference
                if found["win_rate"] is not None
            },
        )
        outcomes = tables.count_values(context.path("rows"), "outcome")
        return Result(
            outcomes.total(),
            {name: count for name, count in outcomes.items() if count},
            {
                **of_games,
                "alpaca_eval": asdict(by_alpaca_eval),
                "num_repeated_prompts": contest.num_repeated,
                "left_out": dict(contest.left_out),
                **tables.token_figures(context.path("rows")),
                **figures,
            },
        )

    # --- the judge --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The judge's name for people."""
        if self.settings.endpoint:
            return self.settings.endpoint.model
        return storage.name(self.settings.model or "")

    def judge_identity(self) -> dict[str, Any]:
        """The values on which a verdict depends, besides its question."""
        settings = self.settings.identity()
        del settings["num_control_prompts"]
        if self.judge is None:
            return settings
        model = {"dtype": self.dtype, "context_length": self.context_length}
        return {**settings, **model, "model": self.judge.fingerprint}

    def question_key(self, instruction: str, first: str, second: str, by: VerdictsBy) -> str:
        """The key of one question to this judge."""
        asked = judging.question(instruction, first, second, by)
        return judging.question_key(self.judge_identity(), asked)

    def _known_folder(self, context: Context) -> str:
        """The folder of this judge's verdicts, which outlasts every change of other settings."""
        content = json.dumps(self.judge_identity(), sort_keys=True)
        judge = hashlib.sha256(content.encode()).hexdigest()[:16]
        return storage.join(context.run_folder, VERDICTS, judge)

    def _verdicts_by(self, context: Context) -> tuple[VerdictsBy, int]:
        """The way to read verdicts, and the number of requests that it took to learn it.

        Engines give probabilities. An endpoint is tried once in a run, so that all of its verdicts
        are read in the same way.
        """
        if self.uses_engines:
            return VerdictsBy.PROBABILITIES, 0
        path = storage.join(self._known_folder(context), "verdicts_by.json")
        if tried := storage.read_as(path, _Tried):
            return tried.verdicts_by, 0
        by, num_sent = self.endpoint_judge.try_probabilities(context.placement.judge_endpoint)
        storage.write_json(path, asdict(_Tried(self.name, by)))
        return by, num_sent

    # --- behind an endpoint -----------------------------------------------------------------------

    @property
    def endpoint_judge(self) -> EndpointJudge:
        """The judge behind the endpoint of the settings."""
        settings = self.settings
        assert settings.endpoint is not None
        return EndpointJudge(settings.endpoint, settings.max_tokens, settings.min_letter_mass)

    def _endpoint_pool(self, placement: Placement, by: VerdictsBy, num_sent: int) -> EndpointPool:
        return self.endpoint_judge.pool(placement.judge_endpoint, by, num_sent)

    # --- on the engines ---------------------------------------------------------------------------

    def row_task(self, context: Context) -> RowTask:
        """The request of a comparison to a judge on the engines, and the way to its `Verdict`."""
        return RowTask(
            model=self._judge_model(context),
            id_column="verdict_id",
            row_type=Verdict,
            to_request=self.to_request,
            to_row=self.to_verdict,
        )

    def _judge_model(self, context: Context) -> ServedModel:
        """The judge as the engines load it; an empty model behind an endpoint."""
        if self.judge is None:
            return ServedModel("", 0, "")
        # Logits of 16 bits have steps of an eighth of a nat between 16 and 32.
        return self.served(context, self.judge, head_dtype="float32")

    def to_request(self, row: dict[str, Any], tokenizer: Any) -> Request:
        """The question of a comparison, up to the letter that is the verdict."""
        if not verdicts.is_answered(row):
            return Request([], 1)
        asked = judging.question(*verdicts.shown(row), VerdictsBy.PROBABILITIES)
        letters = tokens.choice_ids(tokenizer, judging.VERDICT_LINE, judging.LETTERS)
        if letters is None:
            raise UserError(
                f"the judge {self.name} has a tokenizer that does not write A and B as one token "
                "each: choose another settings.evaluation.judge.model"
            )
        start, ids = letters
        return Request(
            [*tokens.chat_ids(tokenizer, asked), *start], max_tokens=1, wanted_ids=[*ids]
        )

    def to_verdict(self, row: dict[str, Any], generation: Generation) -> dict[str, Any]:
        """A comparison and the engines' answer as the fields of a `Verdict`."""
        judged = judging.judged_by_letters(
            generation.wanted_logprobs, generation.finish, self.settings.min_letter_mass
        )
        return verdicts.verdict_fields(row, judged, generation.text) | {
            "num_prompt_tokens": generation.num_prompt_tokens,
            "num_cached_tokens": generation.num_cached_tokens,
            "num_generated_tokens": generation.num_generated_tokens,
        }


def judgement(
    evaluation: EvaluationSettings,
    settings: JudgeSettings,
    evaluations: list[Evaluate],
    base: Stage | Source,
    serving: dict[str, Any],
    others: Sequence[OtherAnswers] = (),
) -> Stage:
    """The stage that compares all models and published outputs.

    Args:
        evaluations: of the run's models, in the order of training.
        base: judges where the settings name `base` as the judge.
        serving: fields of every stage with engines.
        others: answers of models of another origin.
    """
    judge: Stage | Source | None = None  # behind an endpoint
    if settings.model == "base":
        judge = base
    elif settings.model is not None:
        judge = model_source(settings.model, None, "settings.evaluation.judge.model", "judge")
    context_length = settings.context_length or serving["context_length"]
    return Judge(
        path="judgement", evaluations=tuple(evaluations), others=tuple(others), judge=judge,
        settings=settings,
        reference=published.reference_source(evaluation.reference),
        compared=published.compared_source(evaluation.compared),
        **{**serving, "context_length": context_length},
    )  # fmt: skip
