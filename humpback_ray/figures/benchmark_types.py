"""A run's benchmarks as types, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from humpback_ray.config.benchmarks import CROWS_PAIRS
from humpback_ray.evaluation.estimates import Estimate

# Zero-shot, LLaMA 65B and Humpback 65B, in percent (arXiv 2308.06259). The paper has an accuracy on
# CrowS-Pairs too, 50.0 and 60.28, which is another measure than the harness's.
PAPER = {
    "social_iqa": (52.3, 60.44), "piqa": (82.8, 78.9), "arc_easy": (78.9, 88.67),
    "arc_challenge": (56.0, 72.96), "openbookqa": (60.2, 64.0), "mmlu": (54.8, 59.0),
}  # fmt: skip
PAPER_CROWS_PAIRS = (50.0, 60.28)


@dataclass(frozen=True)
class ModelFigure:
    """A model's figure, and its standard error where the harness gives one."""

    model: str
    value: float | None
    stderr: float | None


@dataclass(frozen=True)
class TaskFigure:
    """A task or a group of tasks by one metric. Values are the harness's: accuracies up to 1."""

    task: str
    group: str  # of which it is a part; empty on top
    metric: str
    n: int  # questions
    higher_is_better: bool | None
    models: list[ModelFigure]  # in the order of training
    # The last model's figure less the base's, on the same questions; None without both.
    change: Estimate | None
    paper: tuple[float, float] | None  # base and Humpback 65B, in percent

    @property
    def is_crows_pairs(self) -> bool:
        """True for CrowS-Pairs and its categories."""
        return self.task.startswith(CROWS_PAIRS)


@dataclass(frozen=True)
class BenchmarkFigures:
    """The benchmarks of a run."""

    base: str
    last: str  # the last model that has answered them
    harnesses: Mapping[str, str]  # version and backend by model
    tasks: list[TaskFigure]
