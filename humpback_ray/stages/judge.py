"""Games between the run's models, the base and published outputs, decided by a judge.

answers of all models ── pairs in both orders ── one verdict for each ── win rates, controls
                                 │                     │
                                 └── RUN/verdicts ◄────┘  never asked again, whatever changes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import EvaluationSettings, JudgeSettings
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.evaluation import alpaca_files, games, judging
from humpback_ray.evaluation.games import Answers, Contestants, Prompt
from humpback_ray.evaluation.judging import Judged, VerdictsBy
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
from humpback_ray.method.rating import AnswerToken
from humpback_ray.rows import (
    Comparison,
    Evaluated,
    Finish,
    KnownVerdict,
    TaskKind,
    Verdict,
    VerdictOutcome,
)
from humpback_ray.serving.endpoint import EndpointPool, EndpointTask, try_and_count
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest
from humpback_ray.serving.generate import GenerationPass, generate
from humpback_ray.serving.requests import Generation, Request, RowTask, ServedModel
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.generating import GeneratingStage

VERDICTS = "verdicts"  # folder below the run's, of verdicts by judge
REFERENCE_KEY = "settings.evaluation.reference"
COMPARED_KEY = "settings.evaluation.compared"
REFERENCE_WITHOUT_FILE = "M_0"
ANSWERED = (Finish.STOP, Finish.LENGTH)
PROBE = ("Name a fruit.", "An apple.", "I do not know.")


@dataclass(frozen=True, kw_only=True)
class Judge(GeneratingStage):
    """A verdict for each pair of answers in each order, and the win rates that follow."""

    kind: ClassVar[str] = "judge"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    # In the order of training; `inputs` has them by their models' names.
    evaluations: tuple[Evaluate, ...] = field(metadata=NOT_HASHED)
    judge: Stage | Source | None  # None: the endpoint's model judges
    reference: Source | None  # a file of published outputs; None: M_0
    compared: Source | None  # more such files
    settings: JudgeSettings

    @property
    def uses_engines(self) -> bool:
        """False where an endpoint judges."""
        return self.settings.endpoint is None

    @cached_property
    def inputs(self) -> dict[str, Stage | Source]:
        """The judge, the files, and every model's answers."""
        return super().inputs | {f"answers_of_{each.name}": each for each in self.evaluations}

    def wording(self) -> dict[str, str]:
        """The judge's question, and the answers of the controls."""
        return judging.wording()

    def unread(self) -> set[str]:
        """An endpoint has its own dtype and context length."""
        return set() if self.uses_engines else {"context_length", "dtype"}

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
            if games.is_asked_again(outcome, of_endpoint=not self.uses_engines)
        ]

    def run(self, context: Context) -> Result:
        """Write a `Verdict` for each comparison, AlpacaEval's files, and the figures."""
        contest = self._contest(context)
        by, num_sent = self._verdicts_by(context)
        known = storage.join(self._known_folder(context), by.name.lower())
        asked = games.comparisons(
            contest.contestants, contest.prompts, contest.answers,
            self.settings.num_control_prompts, partial(self.question_key, by=by),
        )  # fmt: skip
        tables.write_rows(context.path("_comparisons"), asked, Comparison)
        work = GenerationPass(
            context.path("_comparisons"),
            context.path("rows"),
            self.row_task(context),
            endpoint=partial(self.endpoint_pool, by=by, num_sent=num_sent)
            if self.settings.endpoint
            else None,
        )
        # A killed command has left its own.
        _keep(context.path("rows"), known)
        outcomes = pa.array(self._outcomes_asked_again, pa.string())
        work.folders.drop(lambda rows: pc.is_in(rows["outcome"], value_set=outcomes))
        num_reused = _take_known(work, known)
        try:
            figures = generate(context, work)
        finally:
            _keep(context.path("rows"), known)
        storage.delete(context.path("_comparisons"))
        return self._result(context, contest, by, {**figures, "num_reused": num_reused})

    def _result(
        self, context: Context, contest: Contest, by: VerdictsBy, figures: Mapping[str, Any]
    ) -> Result:
        verdicts = tables.read_rows(context.path("rows"), Verdict)
        found = games.figures(verdicts, contest.contestants, self.name, by, self.random_seed)
        by_pair = {(each["model"], each["opponent"]): each for each in found["games"]}
        reference = contest.contestants.reference
        of_reference = [
            (game, by_pair[game.model, game.opponent])
            for game in games.games_of(verdicts)
            if not game.is_control and game.opponent == reference
        ]
        alpaca_files.write_files(
            context.path("alpaca_eval"), contest.prompts, contest.answers, of_reference, self.name
        )
        outcomes = tables.count_values(context.path("rows"), "outcome")
        return Result(
            outcomes.total(),
            {name: count for name, count in outcomes.items() if count},
            {
                **found,
                "num_repeated_prompts": contest.num_repeated,
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
        if self.settings.endpoint is None:
            return VerdictsBy.PROBABILITIES, 0
        path = storage.join(self._known_folder(context), "verdicts_by.json")
        if found := storage.read_json(path):
            return VerdictsBy(found["verdicts_by"]), 0
        by, num_sent = self.try_probabilities(context.placement)
        storage.write_json(path, {"judge": self.name, "verdicts_by": by.value})
        return by, num_sent

    def try_probabilities(self, placement: Placement) -> tuple[VerdictsBy, int]:
        """Ask one question to learn if an endpoint gives log-probabilities with its verdict.

        Returns:
            The way to read verdicts, and the number of requests.

        Raises:
            UserError: the key is not set, or the endpoint does not answer.
        """
        served, limits = self.settings.endpoint, placement.judge_endpoint
        assert served is not None
        request = self._chat_request(PROBE, VerdictsBy.PROBABILITIES)
        reply, num_sent = try_and_count(served, limits, request)
        if reply.finish in ANSWERED and judging.letter_logprobs(_answer_tokens(reply) or ()):
            return VerdictsBy.PROBABILITIES, num_sent
        # Some servers refuse a request that asks for log-probabilities.
        return VerdictsBy.TEXT, num_sent + self._try(placement, VerdictsBy.TEXT)

    def _try(self, placement: Placement, by: VerdictsBy) -> int:
        """Ask one question, so that a wrong url, key or model fails once and not per row."""
        served, limits = self.settings.endpoint, placement.judge_endpoint
        assert served is not None
        reply, num_sent = try_and_count(served, limits, self._chat_request(PROBE, by))
        if reply.finish not in ANSWERED:
            raise UserError(
                f"{served.url} cannot judge as {served.model}: {reply.text} (see "
                f"settings.evaluation.judge.endpoint and {limits.key})"
            )
        if by is VerdictsBy.PROBABILITIES and reply.tokens is None:
            raise UserError(
                f"{served.url} gives no log-probabilities any more, by which {served.model} has "
                "given the verdicts of this run so far: let the server give them, or judge with "
                "another settings.evaluation.judge.max_tokens to begin anew by text"
            )
        return num_sent

    def endpoint_pool(self, placement: Placement, by: VerdictsBy, num_sent: int) -> EndpointPool:
        """The judge behind the endpoint of the settings, after one request that it has answered.

        Args:
            num_sent: requests that this command has sent to the endpoint before.

        Raises:
            UserError: the key is not set, or the endpoint does not answer.
        """
        served = self.settings.endpoint
        assert served is not None
        num_sent = num_sent or self._try(placement, by)
        task = EndpointTask(
            partial(self.to_chat_request, by=by), partial(self.from_chat_reply, by=by), Verdict
        )
        return EndpointPool(task, served, placement.judge_endpoint, num_sent)

    # --- questions and verdicts -------------------------------------------------------------------

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
        if not _is_answered(row):
            return Request([], 1)
        asked = judging.question(*_shown(row), VerdictsBy.PROBABILITIES)
        found = tokens.choice_ids(tokenizer, judging.VERDICT_LINE, judging.LETTERS)
        if found is None:
            raise UserError(
                f"the judge {self.name} has a tokenizer that does not write A and B as one token "
                "each: choose another settings.evaluation.judge.model"
            )
        start, letters = found
        return Request(
            [*tokens.chat_ids(tokenizer, asked), *start], max_tokens=1, wanted_ids=[*letters]
        )

    def to_chat_request(self, row: dict[str, Any], by: VerdictsBy) -> ChatRequest | None:
        """The question of a comparison to an endpoint; None if a model has no answer."""
        return self._chat_request(_shown(row), by) if _is_answered(row) else None

    def _chat_request(self, shown: tuple[str, str, str], by: VerdictsBy) -> ChatRequest:
        served = self.settings.endpoint
        assert served is not None
        wanted = served.num_top_tokens if by is VerdictsBy.PROBABILITIES else None
        asked = judging.question(*shown, by)
        return ChatRequest(asked, self.settings.max_tokens, top_logprobs=wanted)

    def to_verdict(self, row: dict[str, Any], generation: Generation) -> dict[str, Any]:
        """A comparison and the engines' answer as the fields of a `Verdict`."""
        judged = judging.judged_by_letters(
            generation.wanted_logprobs, generation.finish, self.settings.min_letter_mass
        )
        return _verdict(row, judged, generation.text) | {
            "num_prompt_tokens": generation.num_prompt_tokens,
            "num_cached_tokens": generation.num_cached_tokens,
            "num_generated_tokens": generation.num_generated_tokens,
        }

    def from_chat_reply(
        self, row: dict[str, Any], reply: ChatReply, by: VerdictsBy
    ) -> dict[str, Any]:
        """A comparison and an endpoint's reply as the fields of a `Verdict`."""
        answer, least = _answer_tokens(reply), self.settings.min_letter_mass
        judged = judging.judged_reply(reply.text, reply.finish, answer, by, least)
        return _verdict(row, judged, reply.text) | {
            "num_prompt_tokens": reply.num_prompt_tokens,
            "num_cached_tokens": reply.num_cached_tokens,
            "num_generated_tokens": reply.num_generated_tokens,
        }

    # --- answers ----------------------------------------------------------------------------------

    def _contest(self, context: Context) -> Contest:
        evaluated = {
            each.name: [
                row
                for row in tables.read_rows(context.of(each, "rows"), Evaluated)
                if row.kind is TaskKind.ANSWER
            ]
            for each in self.evaluations
        }
        asked = next(iter(evaluated.values()))
        prompts = {row.instruction: Prompt(row.task_id, row.dataset, row.instruction)
                   for row in reversed(asked)}  # fmt: skip
        some = sorted(prompts.values(), key=lambda prompt: prompt.prompt_id)
        ids = {prompt.prompt_id for prompt in some}
        answers: dict[str, Answers] = {
            name: {row.task_id: row.output for row in rows
                   if row.finish in ANSWERED and row.task_id in ids}
            for name, rows in evaluated.items()
        }  # fmt: skip
        files = self._published(context)
        for key, path, outputs in files:
            if outputs.generator in answers:
                raise UserError(
                    f"the outputs {path} ({key}) are of a model {outputs.generator!r}, and another "
                    "one in this evaluation has that name: change `generator` in the file"
                )
            answers[outputs.generator] = outputs.answers_to(some)
        others = [outputs.generator for _, _, outputs in files]
        own = [each.name for each in self.evaluations]
        of_run = REFERENCE_WITHOUT_FILE if REFERENCE_WITHOUT_FILE in own else own[0]
        reference = others[0] if self.reference else of_run
        return Contest(Contestants(own, others, reference), some, answers, len(asked) - len(some))

    def _published(self, context: Context) -> list[tuple[str, str, alpaca_files.PublishedOutputs]]:
        """The files of published outputs with their settings, the reference first."""
        places = [(REFERENCE_KEY, context.of(self.reference))] if self.reference else []
        if self.compared:
            found = list_files(context.of(self.compared), (".json",), COMPARED_KEY)
            places += [(COMPARED_KEY, file.path) for file in found]
        return [(key, path, alpaca_files.read_outputs(path, key)) for key, path in places]


@dataclass(frozen=True)
class Contest:
    """The models, the prompts and the answers of an evaluation."""

    contestants: Contestants
    prompts: list[Prompt]
    answers: dict[str, Answers]
    num_repeated: int  # prompts that another one repeats; the first of them counts


def judgement(
    evaluation: EvaluationSettings,
    settings: JudgeSettings,
    evaluations: list[Evaluate],
    base: Stage | Source,
    serving: dict[str, Any],
) -> Stage:
    """The stage that compares all models and published outputs.

    Args:
        base: judges where the settings name `base` as the judge.
        serving: fields of every stage with engines.
    """
    judge: Stage | Source | None = None  # behind an endpoint
    if settings.model == "base":
        judge = base
    elif settings.model is not None:
        judge = model_source(settings.model, None, "settings.evaluation.judge.model", "judge")
    context_length = settings.context_length or serving["context_length"]
    return Judge(
        path="judgement", evaluations=tuple(evaluations), judge=judge, settings=settings,
        reference=reference_source(evaluation.reference),
        compared=compared_source(evaluation.compared),
        **{**serving, "context_length": context_length},
    )  # fmt: skip


def reference_source(path: str | None) -> Source | None:
    """The reference's outputs by their content; with a problem if they have another format."""
    return None if path is None else alpaca_files.outputs_source(path, REFERENCE_KEY)


def compared_source(path: str | None) -> Source | None:
    """All compared outputs by their contents; with the first problem of any of them."""
    if path is None:
        return None
    try:
        files = list_files(path, (".json",), COMPARED_KEY)
        for file in files:
            alpaca_files.read_outputs(file.path, COMPARED_KEY)
        return Source(path, content_identity(files, COMPARED_KEY))
    except UserError as error:
        return Source(path, None, problem=str(error))


def _shown(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Instruction, answer A, answer B."""
    own, other = row["output"], row["opponent_output"]
    return (row["instruction"], *((own, other) if row["is_model_first"] else (other, own)))


def _is_answered(row: Mapping[str, Any]) -> bool:
    return row["output"] is not None and row["opponent_output"] is not None


def _answer_tokens(reply: ChatReply) -> list[AnswerToken] | None:
    if reply.tokens is None:
        return None
    return [AnswerToken(each.text, each.logprobs) for each in reply.tokens]


def _verdict(row: Mapping[str, Any], judged: Judged, said: str) -> dict[str, Any]:
    """A comparison's own fields and its verdict's, without the counts of tokens."""
    own = {name: row[name] for name in tables.arrow_schema(Comparison).names}
    return own | {
        "preference": _turned(judged.preference_for_first, row["is_model_first"]),
        "letter_mass": judged.letter_mass,
        "outcome": judged.outcome.value,
        "said": said.strip(),
    }


def _turned(preference: float | None, is_model_first: bool) -> float | None:
    """From a preference for the first answer to one for the model, or back."""
    return preference if preference is None or is_model_first else 1 - preference


# --- verdicts that are known ----------------------------------------------------------------------


def _keep(rows: str, known: str) -> None:
    """Add the judged ones of a stage's rows to the known verdicts of its judge."""
    is_new = set(tables.id_column(rows, "key").to_pylist())
    is_new -= set(tables.id_column(known, "key").to_pylist())
    verdicts: dict[str, KnownVerdict] = {}
    for batch in tables.scan(rows, [*_OF_KNOWN, "is_model_first", "preference", "outcome"]):
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


_OF_KNOWN = ("key", "letter_mass", "said")


def _take_known(work: GenerationPass, known: str) -> int:
    """Save the known verdicts on comparisons that have none; returns their number."""
    verdicts = {row["key"]: row for batch in tables.scan(known) for row in batch.to_pylist()}
    saved = set(tables.id_column(work.target, "verdict_id").to_pylist())
    num_taken = 0
    for shard in work.folders.shards():
        filesystem, _ = storage.arrow_filesystem(work.source)
        rows = [
            _known_verdict(row, verdicts[row["key"]])
            for row in tables.read_file(filesystem, shard.source).to_pylist()
            if row["key"] in verdicts and row["verdict_id"] not in saved and _is_answered(row)
        ]
        if rows:
            work.folders.save_shard(shard.key, tables.to_table(rows, Verdict))
        num_taken += len(rows)
    return num_taken


def _known_verdict(row: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    judged = Judged(VerdictOutcome.JUDGED, known["preference_for_first"], known["letter_mass"])
    return _verdict(row, judged, known["said"]) | dict.fromkeys(tables.TOKEN_COLUMNS, 0)
