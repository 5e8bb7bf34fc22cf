"""An engine without a model: every answer comes after a latency, many at a time.

It replaces `VLLMEngine` in the real pool, so a benchmark measures everything else: reading,
batches, prompts, tokenization, outcomes, writing.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import time
from array import array
from collections import deque
from pathlib import Path

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.rows import Finish
from humpback_ray.serving.requests import Generation, Request, ServedModel

BEGUN = ".begun"
INSTRUCTION = (
    "Write a short guide for somebody who has installed the package {number} minutes ago and "
    "wants to know what to configure first, with one example for each step."
)


class LatencyEngine:
    """Answers each request `seconds` after it has got one of the engine's places.

    Args:
        seconds: median latency of a request.
        sigma: of the logarithm of the latencies; 0: all take `seconds`.
        log: a folder that gets two files for each engine: the times of its answers, and a byte for
            each request that it has begun.
    """

    def __init__(
        self, model: ServedModel, placement: EnginePlacement, *, seconds: float, sigma: float = 0.0,
        log: str = "",
    ) -> None:  # fmt: skip
        self._log = Path(log) / f"{os.getpid()}" if log else None
        self._seconds, self._sigma = seconds, sigma
        self._num_free = placement.max_num_seqs or 256
        self._waiting: deque[tuple[str, Request]] = deque()
        self._running: list[tuple[float, str, Request]] = []

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, key: str, request: Request) -> None:
        self._waiting.append((key, request))
        self._begin(time.monotonic())

    def step(self) -> list[tuple[str, Generation]]:
        due = self._running[0][0]
        time.sleep(max(min(due - time.monotonic(), 0.02), 0.0))
        now = time.monotonic()
        done = []
        while self._running and self._running[0][0] <= now:
            _, key, request = heapq.heappop(self._running)
            done.append((key, _answer(request)))
        if self._log and done:
            with self._log.open("ab") as file:
                file.write(array("d", [now] * len(done)).tobytes())
        self._num_free += len(done)
        self._begin(now)
        return done

    def _begin(self, now: float) -> None:
        num_begun = 0
        while self._waiting and self._num_free:
            key, request = self._waiting.popleft()
            heapq.heappush(self._running, (now + self._latency(request), key, request))
            self._num_free -= 1
            num_begun += 1
        if self._log and num_begun:
            with self._log.with_suffix(BEGUN).open("ab") as file:
                file.write(b"." * num_begun)

    def _latency(self, request: Request) -> float:
        if not self._sigma:
            return self._seconds
        # The same for a row in every run and on every engine.
        return self._seconds * math.exp(random.Random(request.seed).gauss(0.0, self._sigma))


def _answer(request: Request) -> Generation:
    num_prompt = len(request.prompt_ids)
    if request.wanted_ids:
        number = sum(request.prompt_ids)
        wanted = tuple(-((number + at) % 5) / 2 for at in range(len(request.wanted_ids)))
        return Generation("", Finish.LENGTH, num_prompt, 1, 0, wanted)
    text = INSTRUCTION.format(number=request.seed % 1000)
    # The last line is a rating's, which no instruction minds.
    return Generation(f"{text}\nScore: {1 + request.seed % 5}", Finish.STOP, num_prompt, 30)


def answers(log: Path) -> dict[str, list[float]]:
    """The sorted times of answers by engine, from a log folder."""
    files = [file for file in log.iterdir() if file.suffix != BEGUN]
    return {file.name: array("d", file.read_bytes()).tolist() for file in files}


def num_begun(log: Path) -> int:
    """Requests that the engines of a log's folder have begun."""
    return sum(file.stat().st_size for file in log.glob(f"*{BEGUN}"))
