"""Tiny real objects shared by the tests: a tokenizer, a model folder, a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", NO_COLOR="1"
)

# Fixtures that several folders use.
pytest_plugins = ["tests.support.pipeline", "tests.support.growing_cluster"]

# A shell that starts `make test` in the background lets it ignore SIGINT, and so would every
# command that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def interrupts_raise() -> Iterator[None]:
    """No test leaves another effect of SIGINT to the next one."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


TEXTS = [
    "Install the package with pip and import it. Score: 1 Score: 2 Score: 3 Score: 4 Score: 5",
    "### Request\nBelow is a text that was given as an answer.\n\n### Answer\nFive things.",
    "The quick brown fox jumps over the lazy dog; 0 1 2 3 4 5 6 7 8 9 apples, naïve café ünïcode.",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with most engines and trainings first.

    Side by side, files of fast tests then fill what is left, and no slow one runs alone at the end.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer as the tiny recipe trains it."""
    from humpback_ray.training.scratch_model import train_tokenizer

    return train_tokenizer(TEXTS * 20, 512)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> str:
    """A random LLaMA of a few hundred thousand parameters with that tokenizer's folder layout."""
    from humpback_ray.config.settings import ScratchBase, TrainingSettings
    from humpback_ray.training import scratch_model

    folder = tmp_path_factory.mktemp("model")
    settings = ScratchBase(
        kind="scratch", vocabulary_size=512, hidden_size=64, intermediate_size=128,
        num_layers=2, num_heads=2, training=TrainingSettings(),
    )  # fmt: skip
    scratch_model.create(
        TEXTS * 20, settings, context_length=1024, random_seed=0, output=str(folder)
    )
    return str(folder)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of this test session alone, on one machine."""
    import ray

    ray.init(
        address="local", num_cpus=8, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=300 * 2**20,
        _system_config={"metrics_report_interval_ms": 1000},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def seed_file() -> Path:
    """The seed file that is shipped."""
    from importlib import resources

    return Path(str(resources.files("humpback_ray") / "recipes" / "tiny_seed.jsonl"))
