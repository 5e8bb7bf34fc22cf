"""A vLLM engine that starts and waits: `python -m tests.support.waiting_engine MODEL`."""

from __future__ import annotations

import sys
import time

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving.requests import ServedModel
from humpback_ray.serving.vllm_engine import VLLMEngine


def main(model: str) -> None:
    """Start an engine, say so, and keep it."""
    placement = EnginePlacement(device="cpu", enforce_eager=True)
    engine = VLLMEngine(ServedModel(model, 1024, "float32"), placement)
    print("started", engine.num_unfinished, flush=True)
    time.sleep(600)


if __name__ == "__main__":  # vLLM's spawned process imports this module too
    main(sys.argv[1])
