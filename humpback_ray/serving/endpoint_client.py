"""Requests to an OpenAI-compatible chat endpoint through the `openai` client.

(https://platform.openai.com/docs/api-reference/chat)
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, FiniteFloat, SecretStr, ValidationError

from humpback_ray.config.placement import EndpointPlacement
from humpback_ray.config.settings import EndpointSettings
from humpback_ray.rows import Finish
from humpback_ray.serving.failures import EngineFailed

LONGEST_RETRY_SECONDS = 600.0
NUM_SHOWN_CHARACTERS = 300
# Statuses below 500 for which a retry of the same request may succeed.
PASSING = (
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS,
)  # fmt: skip
# Words in the errors of OpenAI's and vLLM's servers for a prompt that is too long.
TOO_LONG = ("context_length_exceeded", "maximum context length", "maximum model length")
FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}


@dataclass(frozen=True)
class ChatRequest:
    """One user turn, as text and not token ids, because the server applies its chat template."""

    text: str
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int | None = None  # number of likeliest tokens to return at each position


class AnswerToken(BaseModel, frozen=True):
    """A token of an answer with the likeliest tokens at its position."""

    text: str
    logprobs: dict[str, FiniteFloat]  # nats by text, the answer's own token included


class ChatReply(BaseModel, frozen=True):
    """The answer to one request, or the reason why it failed."""

    text: str  # the reason if `finish` is ENGINE_ERROR or PROMPT_TOO_LONG
    finish: Finish
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0  # tokens of the prompt in the server's prefix cache
    tokens: tuple[AnswerToken, ...] | None = None  # None if the server gives no log-probabilities


class NoAnswer(Exception):
    """A failed request; if `is_passing`, a retry may succeed."""

    def __init__(
        self, reason: str, *, is_passing: bool, finish: Finish = Finish.ENGINE_ERROR
    ) -> None:
        super().__init__(reason)
        self.is_passing = is_passing
        self.reply = ChatReply(text=" ".join(reason.split()), finish=finish)


class EndpointClient:
    """All requests of one process to one endpoint: one rate, one limit, one count of failures.

    This class retries, because the `openai` client (3.52) retries inside each call on a separate
    clock: it bypasses the rate, lets no other request wait when the server asks one to, and gives
    up when Retry-After asks for more than two minutes.
    """

    def __init__(
        self, settings: EndpointSettings, limits: EndpointPlacement, key: SecretStr | None
    ) -> None:
        # Imported here, because the import takes a second and few runs use an endpoint.
        from openai import AsyncOpenAI, omit

        self._settings, self._limits = settings, limits
        # The client would fill each missing argument from an OPENAI_... variable, which may belong
        # to another server. So each has a value here or a header in `_headers`.
        self._client = AsyncOpenAI(
            api_key="",
            admin_api_key="",
            webhook_secret="",
            base_url=settings.url,
            max_retries=0,
            timeout=None,  # the client's limits each read; `_send` limits the whole request
        )
        self._headers = {
            "Authorization": f"Bearer {key.get_secret_value()}" if key else omit,
            "OpenAI-Organization": omit,
            "OpenAI-Project": omit,
        }
        self._places = asyncio.Semaphore(limits.max_in_flight)
        self._pace = _Pace(limits.requests_per_second)
        self._num_failures_in_a_row = 0
        self.num_requests = 0  # sent, retries included
        self.is_spent = False  # a request more than `max_requests` was asked for

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, request: ChatRequest) -> ChatReply:
        """The answer to a request, or the reason why it failed.

        Raises:
            EngineFailed: too many requests in a row failed for good. The server is gone, and every
                further row would lose its answer. Or the allowed number of requests is sent.
        """
        try:
            reply = await self.answer(request)
        except NoAnswer as error:
            reply = error.reply
            # A prompt that is too long does not count against the server.
            has_failed = reply.finish is Finish.ENGINE_ERROR
            self._num_failures_in_a_row = self._num_failures_in_a_row + 1 if has_failed else 0
        else:
            self._num_failures_in_a_row = 0
        if self._num_failures_in_a_row >= self._limits.max_failures_in_a_row:
            raise EngineFailed(
                f"{self._settings.url} has failed {self._num_failures_in_a_row} rows in a row, the "
                f"last with: {reply.text}. Run again when it answers (or raise "
                f"{self._limits.key}.max_failures_in_a_row)"
            )
        return reply

    async def answer(self, request: ChatRequest) -> ChatReply:
        """The answer to a request, after up to `max_retries` retries.

        Raises:
            NoAnswer: the last attempt failed, or a failure that no retry can mend.
            EngineFailed: the allowed number of requests is sent.
        """
        for num_retries in range(self._limits.max_retries):
            try:
                return await self._send(request)
            except NoAnswer as error:
                if not error.is_passing:
                    raise
            seconds = self._limits.first_retry_seconds * 2**num_retries
            await asyncio.sleep(min(seconds, LONGEST_RETRY_SECONDS))
        return await self._send(request)

    async def _send(self, request: ChatRequest) -> ChatReply:
        import openai

        timeout = self._limits.timeout_seconds
        try:
            async with self._places:
                await self._pace.turn()
                self._count_request()
                async with asyncio.timeout(timeout):
                    completion = await self._client.chat.completions.create(
                        model=self._settings.model,
                        messages=[{"role": "user", "content": request.text}],
                        max_tokens=request.max_tokens,
                        temperature=request.temperature,
                        top_p=request.top_p,
                        seed=request.seed,
                        logprobs=request.top_logprobs is not None,
                        top_logprobs=request.top_logprobs or openai.omit,
                        extra_headers=self._headers,
                    )
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {timeout:g} s", is_passing=True) from error
        except openai.APIStatusError as error:
            raise self._failure(error.response) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise NoAnswer(f"{type(cause).__name__}: {cause}", is_passing=True) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _no_completion(getattr(error, "doc", error)) from error
        return _read(completion)

    def _count_request(self) -> None:
        most = self._limits.max_requests
        if most is not None and self.num_requests >= most:
            self.is_spent = True
            raise EngineFailed(
                f"{self._settings.url} has got the last of the requests that one command may send "
                "it; the answers so far are kept. Run again to go on with as many more, or raise "
                f"{self._limits.key}.max_requests"
            )
        self.num_requests += 1

    def _failure(self, response: Any) -> NoAnswer:
        """The failure behind a status of at least 400; Retry-After holds all requests."""
        if (seconds := retry_after(response.headers.get("Retry-After"))) is not None:
            self._pace.hold(seconds)
        status, body = response.status_code, response.text
        reason = f"HTTP {status} {response.reason_phrase}: {body[:NUM_SHOWN_CHARACTERS]}"
        if any(words in body for words in TOO_LONG):
            return NoAnswer(reason, is_passing=False, finish=Finish.PROMPT_TOO_LONG)
        return NoAnswer(reason, is_passing=status in PASSING or status >= 500)


class _Pace:
    """Turns at a fixed rate; `hold` delays all of them."""

    def __init__(self, per_second: float | None) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        async with self._lock:
            while (seconds := self._next - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            self._next = max(self._next + self._interval, time.monotonic())

    def hold(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)


def _read(completion: Any) -> ChatReply:
    """The first choice of a completion.

    Raises:
        NoAnswer: it is no completion.
    """
    # The client validates nothing: a proxy's page arrives as a str, a missing field as None.
    try:
        choice, usage = completion.choices[0], completion.usage
        tokens = choice.logprobs and choice.logprobs.content
        details = usage and usage.prompt_tokens_details
        finish = FINISHES.get(choice.finish_reason)
        return ChatReply(
            text=(choice.message.content or "")
            if finish
            else f"the answer ended with finish_reason {choice.finish_reason!r}",
            finish=finish or Finish.ENGINE_ERROR,
            num_prompt_tokens=(usage and usage.prompt_tokens) or 0,
            num_generated_tokens=(usage and usage.completion_tokens) or 0,
            num_cached_tokens=(details and details.cached_tokens) or 0,
            tokens=None if tokens is None else tuple(_token(token) for token in tokens),
        )
    except (AttributeError, IndexError, TypeError, ValidationError):
        raise _no_completion(completion) from None


def _token(token: Any) -> AnswerToken:
    # Not every server lists the sampled token among the likeliest.
    candidates = (token, *(token.top_logprobs or ()))
    logprobs = {candidate.token: candidate.logprob for candidate in candidates}
    return AnswerToken(text=token.token, logprobs=logprobs)


def _no_completion(reply: object) -> NoAnswer:
    return NoAnswer(f"no chat completion: {str(reply)[:NUM_SHOWN_CHARACTERS]!r}", is_passing=True)


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header of seconds or a date (RFC 9110, section 10.2.3)."""
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
