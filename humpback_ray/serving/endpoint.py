"""Rows through an OpenAI-compatible chat endpoint with Ray Data: one row in, one row out.

    blocks of rows ──► one actor: rows to requests ─► all rows of all blocks at once, under one
                       (several blocks at once)       pace ─► answers to rows ─► saved

`ray.data.llm` (2.60) has an HTTP stage, but it spaces out neither batches nor retries, ignores
Retry-After, and ends the dataset at the first request that fails for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
from pydantic import SecretStr

from humpback_ray import tables
from humpback_ray.config.placement import EndpointPlacement
from humpback_ray.config.settings import EndpointSettings
from humpback_ray.errors import UserError
from humpback_ray.rows import Finish
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest, EndpointClient, NoAnswer
from humpback_ray.serving.engine_registry import Engine
from humpback_ray.serving.failures import EngineFailed

# Blocks of placement.engine.rows_per_batch rows in the actor at a time, so that it is not idle
# while one block waits for its last rows.
NUM_CONCURRENT_BLOCKS = 4
SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class EndpointTask:
    """Functions from a table's rows to requests, and from replies to another table's rows."""

    # None if the row has nothing to ask; it then finishes as EMPTY_PROMPT.
    to_request: Callable[[dict[str, Any]], ChatRequest | None]
    to_row: Callable[[dict[str, Any], ChatReply], dict[str, Any]]
    row_type: type  # of `to_row`'s rows


class EndpointPool:
    """An endpoint in place of a `pool.EnginePool`. A context manager.

    Raises:
        UserError: on entry, the key's environment variable is not set or holds no key.
    """

    num_wanted = 0  # engines
    need = ""  # of the cluster

    def __init__(
        self,
        task: EndpointTask,
        settings: EndpointSettings,
        limits: EndpointPlacement,
        num_sent: int = 0,
    ) -> None:
        """Take the rows' task and the endpoint.

        Args:
            num_sent: requests that the command has sent before; they count for `max_requests`.
        """
        if limits.max_requests is not None:
            left = max(limits.max_requests - num_sent, 0)
            limits = limits.model_copy(update={"max_requests": left})
        self._task, self._settings, self._limits = task, settings, limits

    @property
    def is_limited(self) -> bool:
        """True if the number of requests has a limit, which only one process can keep."""
        return self._limits.max_requests is not None

    def __enter__(self) -> EndpointPool:
        self._key = self._limits.read_key()
        return self

    def __exit__(self, *error: object) -> None:
        """Ray Data ends the actor together with the dataset."""

    def through(
        self, rows: ray.data.Dataset, save: Callable[[pa.Table, pa.Table], pa.Table]
    ) -> ray.data.Dataset:
        """The saved answers of rows, computed lazily; each block of rows is one batch.

        Args:
            rows: source rows.
            save: called in the actor with each batch and its answers (columns of the row type);
                the dataset holds its results.
        """
        return rows.map_batches(
            EndpointActor,
            fn_constructor_kwargs={
                "task": self._task,
                "settings": self._settings,
                "limits": self._limits,
                "key": self._key,
                "save": save,
            },
            batch_size=None,  # one block is one batch is one task, as in `pool.py`
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                size=1,  # one process keeps the rate
                max_concurrent_calls_per_actor=NUM_CONCURRENT_BLOCKS,
                max_tasks_in_flight_per_actor=NUM_CONCURRENT_BLOCKS + 1,
            ),
            num_cpus=0,  # it waits for the network
            # A new actor would count its requests from 0.
            **({"max_restarts": 0} if self.is_limited else {}),
        )

    def engines(self) -> list[Engine]:
        """Always empty: the server alone knows its engines."""
        return []

    def num_restarts(self) -> int:
        """Always 0, because the pool has no engines."""
        return 0

    def give_up_stranded(self) -> None:
        """Do nothing, because no engine can lose its node."""


class EndpointActor:
    """Answers blocks of rows. Ray Data awaits several blocks at a time on one event loop."""

    def __init__(
        self,
        task: EndpointTask,
        settings: EndpointSettings,
        limits: EndpointPlacement,
        key: SecretStr | None,
        save: Callable[[pa.Table, pa.Table], pa.Table],
    ) -> None:
        self._task, self._save_batch = task, save
        self._client = EndpointClient(settings, limits, key)
        self._num_unsaved = 0  # batches

    async def __call__(self, batch: pa.Table) -> pa.Table:
        requests = [asyncio.create_task(self._answer(row)) for row in batch.to_pylist()]
        self._num_unsaved += 1
        try:
            return await self._save(batch, await asyncio.gather(*requests))
        except EngineFailed:
            if self._client.is_spent:
                await self._save_answered(batch, requests)
            raise
        finally:
            for request in requests:  # one failure leaves the others running
                request.cancel()
            self._num_unsaved -= 1
            # The failure of one batch ends the actor, and the others' answers are paid for.
            while self._client.is_spent and self._num_unsaved:
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _save_answered(self, batch: pa.Table, requests: list[asyncio.Task[Any]]) -> None:
        """Save the answers of a batch that has no more requests, those on their way included."""
        results = await asyncio.gather(*requests, return_exceptions=True)
        answers = [result for result in results if not isinstance(result, BaseException)]
        if answers:
            await self._save(batch, answers)

    async def _save(self, batch: pa.Table, answers: list[dict[str, Any]]) -> pa.Table:
        # In a thread, so that the other blocks' requests do not wait for the file.
        table = tables.to_table(answers, self._task.row_type)
        return await asyncio.to_thread(self._save_batch, batch, table)

    async def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        request = self._task.to_request(row)
        if request is None:
            return self._task.to_row(row, ChatReply(text="", finish=Finish.EMPTY_PROMPT))
        return self._task.to_row(row, await self._client.ask(request))


def try_endpoint(
    settings: EndpointSettings, limits: EndpointPlacement, request: ChatRequest
) -> ChatReply:
    """Send one request before the rows, so that a wrong url, key or model fails once, not per row.

    Raises:
        UserError: the key's environment variable is not set or holds no key.
    """
    reply, _ = try_and_count(settings, limits, request)
    return reply


def try_and_count(
    settings: EndpointSettings, limits: EndpointPlacement, request: ChatRequest
) -> tuple[ChatReply, int]:
    """The reply of `try_endpoint`, and the number of requests that it took, retries included.

    Raises:
        UserError: the key's environment variable is not set or holds no key, or the retries are
            more requests than the limits allow.
    """

    async def ask() -> tuple[ChatReply, int]:
        client = EndpointClient(settings, limits, limits.read_key())
        try:
            return await client.answer(request), client.num_requests
        except NoAnswer as error:
            return error.reply, client.num_requests
        except EngineFailed as error:
            raise UserError(str(error)) from error
        finally:
            await client.close()

    return asyncio.run(ask())
