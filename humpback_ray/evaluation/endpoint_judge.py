"""A judge behind an OpenAI-compatible endpoint: one trial, then its questions and replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from humpback_ray.config.placement import JudgeEndpointPlacement
from humpback_ray.config.settings import EndpointSettings
from humpback_ray.errors import UserError
from humpback_ray.evaluation import judging
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.evaluation.verdicts import is_answered, shown, verdict_fields
from humpback_ray.method.rating import AnswerToken
from humpback_ray.rows import Verdict
from humpback_ray.serving.endpoint import EndpointPool, EndpointTask, try_and_count
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest

TRIAL = ("Name a fruit.", "An apple.", "I do not know.")


@dataclass(frozen=True)
class EndpointJudge:
    """The model behind an endpoint as a judge.

    Args:
        max_tokens: of a verdict.
        min_letter_mass: least probability that A or B follows as the verdict.
    """

    endpoint: EndpointSettings
    max_tokens: int
    min_letter_mass: float

    # --- the trial --------------------------------------------------------------------------------

    def try_probabilities(self, limits: JudgeEndpointPlacement) -> tuple[VerdictsBy, int]:
        """Ask one question to learn if the endpoint gives log-probabilities with its verdict.

        Returns:
            The way to read verdicts, and the number of requests sent.

        Raises:
            UserError: the key is not set, or the endpoint does not answer.
        """
        request = self._request(TRIAL, VerdictsBy.PROBABILITIES)
        reply, num_sent = try_and_count(self.endpoint, limits, request)
        if reply.finish.is_answer and judging.letter_logprobs(_answer_tokens(reply) or ()):
            return VerdictsBy.PROBABILITIES, num_sent
        # Some servers refuse a request that asks for log-probabilities.
        return VerdictsBy.TEXT, num_sent + self._try(limits, VerdictsBy.TEXT)

    def _try(self, limits: JudgeEndpointPlacement, by: VerdictsBy) -> int:
        """Ask one question, so that a wrong url, key or model fails once and not per row."""
        served = self.endpoint
        reply, num_sent = try_and_count(served, limits, self._request(TRIAL, by))
        if not reply.finish.is_answer:
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

    def pool(self, limits: JudgeEndpointPlacement, by: VerdictsBy, num_sent: int) -> EndpointPool:
        """The endpoint as a pool that gives verdicts; it has answered one request by then.

        Args:
            num_sent: requests that this command has sent to the endpoint before.

        Raises:
            UserError: the key is not set, or the endpoint does not answer.
        """
        num_sent = num_sent or self._try(limits, by)
        task = EndpointTask(
            partial(self.to_chat_request, by=by), partial(self.from_chat_reply, by=by), Verdict
        )
        return EndpointPool(task, self.endpoint, limits, num_sent)

    # --- questions and replies --------------------------------------------------------------------

    def to_chat_request(self, comparison: Mapping[str, Any], by: VerdictsBy) -> ChatRequest | None:
        """The question of a comparison; None if a model has no answer."""
        return self._request(shown(comparison), by) if is_answered(comparison) else None

    def _request(self, pair: tuple[str, str, str], by: VerdictsBy) -> ChatRequest:
        wanted = self.endpoint.num_top_tokens if by is VerdictsBy.PROBABILITIES else None
        asked = judging.question(*pair, by)
        return ChatRequest(asked, self.max_tokens, top_logprobs=wanted)

    def from_chat_reply(
        self, comparison: Mapping[str, Any], reply: ChatReply, by: VerdictsBy
    ) -> dict[str, Any]:
        """A comparison and the reply as the fields of a `Verdict`."""
        answer, least = _answer_tokens(reply), self.min_letter_mass
        judged = judging.judged_reply(reply.text, reply.finish, answer, by, least)
        return verdict_fields(comparison, judged, reply.text) | {
            "num_prompt_tokens": reply.num_prompt_tokens,
            "num_cached_tokens": reply.num_cached_tokens,
            "num_generated_tokens": reply.num_generated_tokens,
        }


def _answer_tokens(reply: ChatReply) -> list[AnswerToken] | None:
    if reply.tokens is None:
        return None
    return [AnswerToken(each.text, each.logprobs) for each in reply.tokens]
