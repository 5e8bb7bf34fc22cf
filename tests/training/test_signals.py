"""Signals during a training, and after it."""

from __future__ import annotations

import os
import signal

import pytest

from humpback_ray.training import finetune


def test_interrupts_have_their_effect_again_after_a_training():
    with finetune._terminated(lambda: None):
        # As Ray Train does at the start of every training.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
