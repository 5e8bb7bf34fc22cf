"""The parts that build an engine and make a step work where Ray is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.training import PLACEMENT, SEED, SETTINGS

WITHOUT_RAY = "import runpy, sys; sys.modules['ray'] = None; "


def run_without_ray(program: str, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY + program, *arguments], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def test_step_modules_without_ray_can_be_imported() -> None:
    run_without_ray(
        "from humpback_ray.training import batches, deepspeed_engine, examples, export, loss, "
        "packing, scratch_model, speed; "
        "from humpback_ray.training.loss import bad_loss, completion_loss"
    )
    with pytest.raises(AssertionError, match="import of ray halted"):
        run_without_ray("from humpback_ray.training import loop")


@pytest.mark.slow  # imports DeepSpeed
def test_steps_without_ray_train_as_one_plain_process(base: str, examples: str, plain: Any) -> None:
    arguments = {
        "base": base,
        "examples": examples,
        "settings": SETTINGS.model_dump(),
        "placement": PLACEMENT.model_dump(),
        "random_seed": SEED,
        "num_steps": 3,
    }
    output = run_without_ray(
        "runpy.run_module('tests.support.steps_without_ray', run_name='__main__')",
        json.dumps(arguments),
    )
    (line,) = (line for line in output.splitlines() if line.startswith("STEPS"))
    losses, norms = json.loads(line.removeprefix("STEPS"))
    assert losses == pytest.approx(plain[0][:3], abs=1e-4)
    assert norms == pytest.approx(plain[1][:3], rel=1e-3)
    assert losses[2] < losses[0], "the steps must have changed the weights"
