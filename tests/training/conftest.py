"""A base model, examples, and what a plain loop makes of them."""

from __future__ import annotations

import pytest
import torch

from tests.support.training import (
    SETTINGS,
    make_base,
    make_examples,
    plain_training,
    write_examples,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_examples(tmp_path_factory.mktemp("examples"), make_examples(26), num_files=2)


@pytest.fixture(scope="module")
def plain(base: str) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    return plain_training(base, make_examples(26), SETTINGS)
