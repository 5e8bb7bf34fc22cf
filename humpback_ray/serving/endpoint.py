"""Rows through an OpenAI-compatible chat endpoint with `ray.data.llm`: one row in, one row out.

Ray's stage (ray/llm/_internal/batch/stages/http_request_stage.py of 2.60) makes the batches and the
actor. The rest is done in the session that it takes from `session_factory`, for it

- sends one request of a batch after the other (a `post` of aiohttp begins when it is awaited), and
  its `qps` delays the first of them but spaces out neither them nor batches nor retries;
- waits by its own clock after a 429, whatever Retry-After says;
- ends the whole dataset, with the row in the message, where one request fails for good, a 500 comes
  as HTML, or an answer is no JSON, and has no way to go on;
- takes the key as a header among its arguments, which Ray Data may export with the plan.

(https://platform.openai.com/docs/api-reference/chat)
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from http import HTTPStatus
from typing import Annotated, Any

import aiohttp
import pyarrow as pa
import ray.data
from pydantic import BaseModel, Field, FiniteFloat, SecretStr, ValidationError
from ray.data.llm import HttpRequestProcessorConfig, build_processor

from humpback_ray.config.placement import EndpointPlacement
from humpback_ray.config.settings import EndpointSettings, RatingSettings
from humpback_ray.errors import UserError
from humpback_ray.method.rating import parse_rating
from humpback_ray.rows import Finish
from humpback_ray.serving.engine_registry import Engine
from humpback_ray.serving.failures import EngineFailed
from humpback_ray.serving.requests import Generation

# Room for `Score: N` with some Markdown around it.
MAX_SCORE_TOKENS = 16
# Blocks of rows that are in the actor at a time, so that the end of one does not leave it idle.
NUM_CONCURRENT_BLOCKS = 4
LONGEST_RETRY_SECONDS = 600.0
NUM_SHOWN_CHARACTERS = 300
# Beside the server's own failures (500 and above), what the same request may not meet again:
# Request Timeout, Too Early, Too Many Requests.
PASSING = (408, 425, 429)
# As OpenAI's and vLLM's servers word a prompt that does not fit.
TOO_LONG = ("context_length_exceeded", "maximum context length", "maximum model length")

# Ray's stage lets rows by that have something in this column; here, their `Finish`.
REFUSAL = "__inference_error__"


@dataclass(frozen=True)
class Prompt:
    """What one row asks of the endpoint."""

    text: str  # the user's turn: the server renders its own template
    seed: int


def rate_over_http(
    rows: ray.data.Dataset,
    *,
    settings: RatingSettings,
    limits: EndpointPlacement,
    to_prompt: Callable[[dict[str, Any]], Prompt | None],
    to_row: Callable[[dict[str, Any], Generation], dict[str, Any]],
) -> ray.data.Dataset:
    """Ask `settings.endpoint` about every row. Lazy, but for one request that tries the endpoint.

    For `expected`, `wanted_logprobs` are those of `settings.grades`; see `grade_logprobs`. The text
    of a generation that ended as ENGINE_ERROR is what went wrong.

    Args:
        rows: any dataset without the columns `payload`, `http_response` and REFUSAL.
        settings: what is asked for.
        limits: how fast, and how often again.
        to_prompt: a row's prompt, None where there is nothing to ask: the row then finishes as
            EMPTY_PROMPT. Runs in CPU tasks.
        to_row: (row, Generation) to the row that comes out. Runs in CPU tasks.

    Raises:
        UserError: the key is not there, or the endpoint cannot answer or not as `settings` need.
    """
    assert settings.endpoint is not None
    client = Client(settings.endpoint, limits, _key(limits))
    # A copy: what a client makes belongs to the event loop and the clock of one machine.
    _try_endpoint(replace(client), settings)
    processor = build_processor(
        HttpRequestProcessorConfig(
            url=client.url,
            session_factory=client,
            batch_size=limits.max_in_flight,
            concurrency=1,  # the rate is kept by the one process that sends
        ),
        preprocess=partial(_prepare, settings=settings, to_prompt=to_prompt),
    )
    arguments = processor.get_stage_by_name("HttpRequestStage").map_batches_kwargs
    arguments["max_concurrency"] = NUM_CONCURRENT_BLOCKS
    return processor(rows).map(partial(_finish, settings=settings, to_row=to_row))


class EndpointPool:
    """An endpoint in the place of a pool of engines (`pool.Pool`): a context manager."""

    num_wanted = 0  # engines

    def __init__(
        self,
        limits: EndpointPlacement,
        settings: RatingSettings,
        to_prompt: Callable[[dict[str, Any]], Prompt | None],
        to_row: Callable[[dict[str, Any], Generation], dict[str, Any]],
    ) -> None:
        self._limits, self._settings = limits, settings
        self._to_prompt, self._to_row = to_prompt, to_row

    def __enter__(self) -> EndpointPool:
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing of ours to end."""

    def through(
        self, rows: ray.data.Dataset, save: Callable[[pa.Table], pa.Table]
    ) -> ray.data.Dataset:
        """The rows' answers, lazily, in tasks that save them; what these return goes on."""
        answered = rate_over_http(
            rows,
            settings=self._settings,
            limits=self._limits,
            to_prompt=self._to_prompt,
            to_row=self._to_row,
        )
        return answered.map_batches(
            save, batch_size=None, batch_format="pyarrow", zero_copy_batch=True
        )

    def engines(self) -> list[Engine]:
        """None of ours."""
        return []

    need = ""

    def give_up_stranded(self) -> None:
        """No engine, so none can be stranded."""

    def num_restarts(self) -> int:
        """None of ours can die."""
        return 0


def _key(limits: EndpointPlacement) -> SecretStr | None:
    name = limits.api_key_variable
    if name is None:
        return None
    if not os.environ.get(name):
        raise UserError(
            f"the environment variable {name} (placement.endpoint.api_key_variable) is not set: "
            "export the endpoint's key under that name where the run is started"
        )
    return SecretStr(os.environ[name])


def _try_endpoint(client: Client, settings: RatingSettings) -> None:
    """One request before all others: a wrong url, key or model is one line, not one a row."""

    async def prepare_request() -> Reply:
        async with client() as session:
            return (await session.post(client.url, data=payload)).reply

    payload = _Body.of(Prompt("Reply with one line: Score: 3", 0), settings).model_dump_json()
    generation = generation_of(asyncio.run(prepare_request()), settings)
    if generation.finish not in (Finish.STOP, Finish.LENGTH):
        raise UserError(
            f"{client.url} cannot rate as {client.endpoint.model}: {generation.text} (see "
            "settings.rating.endpoint and placement.endpoint)"
        )


def _prepare(
    row: dict[str, Any],
    *,
    settings: RatingSettings,
    to_prompt: Callable[[dict[str, Any]], Prompt | None],
) -> dict[str, Any]:
    prompt = to_prompt(row)
    return {
        "payload": _Body.of(prompt or Prompt("", 0), settings).model_dump(),
        REFUSAL: "" if prompt else Finish.EMPTY_PROMPT.value,
    }


def _finish(
    row: dict[str, Any],
    *,
    settings: RatingSettings,
    to_row: Callable[[dict[str, Any], Generation], dict[str, Any]],
) -> dict[str, Any]:
    if row[REFUSAL]:
        generation = Generation("", Finish(row[REFUSAL]), 0)
    else:
        generation = generation_of(Reply(**row["http_response"]), settings)
    return to_row(row | {"was_cut": False}, generation)


# --- what is sent and what comes back -------------------------------------------------------------


class _Message(BaseModel):
    role: str = "assistant"
    content: str | None = None


class _Body(BaseModel):
    """A request, with the same fields in every row: between tasks it is a struct column."""

    model: str
    messages: list[_Message]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    logprobs: bool
    top_logprobs: int | None

    @staticmethod
    def of(prompt: Prompt, settings: RatingSettings) -> _Body:
        assert settings.endpoint is not None
        is_expected, sampling = settings.method == "expected", settings.sampling
        return _Body(
            model=settings.endpoint.model,
            messages=[_Message(role="user", content=prompt.text)],
            max_tokens=MAX_SCORE_TOKENS if is_expected else sampling.max_tokens,
            temperature=0.0 if is_expected else sampling.temperature,
            top_p=1.0 if is_expected else sampling.top_p,
            seed=prompt.seed,
            logprobs=is_expected,
            top_logprobs=settings.endpoint.num_top_tokens if is_expected else None,
        )


class TopToken(BaseModel):
    """A token that could stand at a place of the answer."""

    token: str
    logprob: FiniteFloat  # nats


class AnswerToken(TopToken):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[TopToken] = []


class _TokenLogprobs(BaseModel):
    content: list[AnswerToken] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _TokenLogprobs | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def generation_of(reply: Reply, settings: RatingSettings) -> Generation:
    """What a reply says, as our own engines say it."""
    if reply.failure:
        return Generation(reply.failure, Finish(reply.finish), 0)
    completion = _Completion.model_validate_json(reply.body)
    choice, usage = completion.choices[0], completion.usage or _Usage()
    finish = {"stop": Finish.STOP, "length": Finish.LENGTH}.get(choice.finish_reason or "")
    text = choice.message.content or ""
    logprobs: tuple[float, ...] = ()
    failure = "" if finish else f"the answer ended with finish_reason {choice.finish_reason!r}"
    if settings.method == "expected" and not failure:
        found = choice.logprobs.content if choice.logprobs else None
        logprobs = grade_logprobs(found or [], settings.grades)
        score, _ = parse_rating(text, Finish.STOP, settings.grades)
        if found is None or (score is not None and not logprobs):
            failure = (
                "the server gives no log-probabilities with the grade: "
                "set settings.rating.method=text"
            )
    details = usage.prompt_tokens_details or _PromptDetails()
    return Generation(
        text=failure or text,
        finish=Finish.ENGINE_ERROR if failure or finish is None else finish,
        num_prompt_tokens=usage.prompt_tokens,
        num_generated_tokens=usage.completion_tokens,
        num_cached_tokens=details.cached_tokens or 0,
        wanted_logprobs=logprobs,
    )


def grade_logprobs(answer: list[AnswerToken], grades: range) -> tuple[float, ...]:
    """Log-probability of each grade at the first place where the answer gives one; () if nowhere.

    The place, and which tokens are grades there, is as `parse_rating` reads the text up to it. The
    probabilities of tokens for the same grade (` 4`, `4`) add up. A grade that is not among the
    tokens that the server lists has -inf: it is less likely than each of them, so with 20 of them
    what is left out is small where the rater is sure, and its share goes to the listed grades.
    """
    before = ""
    for token in answer:
        if _grade(before + token.token, grades) is not None:
            break
        before += token.token
    else:
        return ()
    # Not every server lists the token that it took.
    likely = {each.token: each.logprob for each in (token, *token.top_logprobs)}
    probabilities = dict.fromkeys(grades, 0.0)
    for text, logprob in likely.items():
        grade = _grade(before + text, grades)
        if grade is not None:
            probabilities[grade] += math.exp(logprob)
    return tuple(math.log(p) if p else -math.inf for p in probabilities.values())


def _grade(text: str, grades: range) -> int | None:
    return parse_rating(text, Finish.STOP, grades)[0]


# --- the way to the server ------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What became of one row's request. The same columns whatever it was."""

    body: str = ""  # of an answer that can be read
    failure: str = ""  # why there is none
    finish: str = ""  # of a failure


@dataclass(frozen=True)
class _Response:
    """A reply with what Ray's stage reads off a response of aiohttp."""

    reply: Reply
    status: int = 200

    async def __aenter__(self) -> _Response:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def json(self) -> dict[str, str]:
        return asdict(self.reply)


@dataclass
class Client:
    """The way to one endpoint for all batches of a process: rate, places, failures in a row.

    Ray's stage calls it for a session for each batch.
    """

    endpoint: EndpointSettings
    limits: EndpointPlacement
    key: SecretStr | None

    num_failures_in_a_row: int = 0

    @property
    def url(self) -> str:
        return f"{self.endpoint.url.rstrip('/')}/chat/completions"

    # Made in the process that sends: they belong to its event loop.
    @cached_property
    def places(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.limits.max_in_flight)

    @cached_property
    def pace(self) -> _Pace:
        return _Pace(self.limits.requests_per_second)

    def __call__(self) -> _Session:
        return _Session(self)

    def count(self, reply: Reply) -> None:
        """Stop everything when the server is gone, before it has cost every row its rating.

        Raises:
            EngineFailed: too many rows in a row have failed for good.
        """
        # A prompt that is too long says nothing against the server.
        failed = reply.finish == Finish.ENGINE_ERROR
        self.num_failures_in_a_row = self.num_failures_in_a_row + 1 if failed else 0
        if self.num_failures_in_a_row >= self.limits.max_failures_in_a_row:
            raise EngineFailed(
                f"{self.url} has failed {self.num_failures_in_a_row} rows in a row, the last with: "
                f"{reply.failure}. Run again when it answers (or raise "
                "placement.endpoint.max_failures_in_a_row)"
            )


class _Pace:
    """Turns at a rate, one after the other, which all wait when the server asks for it."""

    def __init__(self, per_second: float | None) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        async with self._lock:
            while (seconds := self._next - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            self._next = max(self._next + self._interval, time.monotonic())

    def wait(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)


class _Session:
    """In the place of an `aiohttp.ClientSession`: all posts at once, and each gives a reply."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: list[asyncio.Task[_Response]] = []

    async def __aenter__(self) -> _Session:
        key, limits = self._client.key, self._client.limits
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=limits.timeout_seconds),
            connector=aiohttp.TCPConnector(limit=0),  # `places` is the limit
            trust_env=True,  # proxies
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def post(self, url: str, *, data: str, **_: object) -> asyncio.Task[_Response]:
        """Begin a request now; Ray's stage awaits them in order."""
        task = asyncio.create_task(self._ask(url, data))
        self._tasks.append(task)
        return task

    async def _ask(self, url: str, data: str) -> _Response:
        limits = self._client.limits
        for num_retries in range(limits.max_retries + 1):
            if num_retries:
                seconds = limits.first_retry_seconds * 2 ** (num_retries - 1)
                await asyncio.sleep(min(seconds, LONGEST_RETRY_SECONDS))
            reply, is_final = await self._try(url, data)
            if is_final:
                break
        self._client.count(reply)
        return _Response(reply)

    async def _try(self, url: str, data: str) -> tuple[Reply, bool]:
        """What came of one request, and whether it would come of another one too."""
        async with self._client.places:
            await self._client.pace.turn()
            try:
                async with self._session.post(url, data=data) as response:
                    body = (await response.read()).decode(errors="replace")
            except (TimeoutError, aiohttp.ClientError) as error:
                return _failed(f"{type(error).__name__}: {error}"), False
        if response.status == HTTPStatus.OK:
            return _read(body)
        if (seconds := _retry_after(response.headers.get("Retry-After"))) is not None:
            self._client.pace.wait(seconds)
        reply = _failed(f"HTTP {response.status} {response.reason}: {body[:NUM_SHOWN_CHARACTERS]}")
        if any(words in body for words in TOO_LONG):
            return replace(reply, finish=Finish.PROMPT_TOO_LONG.value), True
        return reply, response.status not in PASSING and response.status < 500


def _read(body: str) -> tuple[Reply, bool]:
    try:
        _Completion.model_validate_json(body)
    except ValidationError:
        return _failed(f"no chat completion: {body[:NUM_SHOWN_CHARACTERS]!r}"), False
    return Reply(body=body), True


def _failed(failure: str) -> Reply:
    return Reply(failure=" ".join(failure.split()), finish=Finish.ENGINE_ERROR.value)


def _retry_after(header: str | None) -> float | None:
    """Seconds that a server asks to wait: it gives them, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
            seconds = float(header)
        else:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_SECONDS)
