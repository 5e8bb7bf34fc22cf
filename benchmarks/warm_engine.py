"""Our engine, warmed up before the pool sees it, so that a benchmark can leave its start out."""

from __future__ import annotations

import json
import time
from pathlib import Path

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving.requests import Request, ServedModel
from humpback_ray.serving.vllm_engine import VLLMEngine


class WarmEngine(VLLMEngine):
    """Answers warm-up requests first, then writes the time and its processor seconds."""

    def __init__(
        self,
        model: ServedModel,
        placement: EnginePlacement,
        *,
        warm_up: list[Request],
        ready_file: str,
    ) -> None:
        super().__init__(model, placement)
        for number, request in enumerate(warm_up):
            self.add(f"warm-up-{number}", request)
        while self.num_unfinished:
            self.step()
        # Of the clock that all processes of a machine share.
        Path(ready_file).write_text(json.dumps([time.monotonic(), time.process_time()]))
