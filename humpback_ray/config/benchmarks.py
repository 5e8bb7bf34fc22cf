"""Benchmarks of lm-evaluation-harness: which ones (settings), and how they run (placement)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from humpback_ray.config.fields import Frozen, Location, PositiveInt

CROWS_PAIRS = "crows_pairs_english"
CROWS_CATEGORIES = (
    "age", "disability", "gender", "nationality", "physical_appearance", "race_color", "religion",
    "sexual_orientation", "socioeconomic",
)  # fmt: skip
# lm-evaluation-harness's names of the benchmarks that the paper's models answer.
PAPER_TASKS = (
    "social_iqa", "piqa", "arc_easy", "arc_challenge", "openbookqa", "mmlu", CROWS_PAIRS,
    *(f"{CROWS_PAIRS}_{category}" for category in CROWS_CATEGORIES),
)  # fmt: skip

# Of task files, their data and a data folder's README.md, which names its parts. The harness's own
# templates have names like _default_template_yaml.
TASK_FILE_SUFFIXES = (
    ".yaml", "_yaml", ".yml", ".py", ".json", ".jsonl", ".parquet", ".arrow", ".csv", ".txt",
    ".md",
)  # fmt: skip
_TaskFiles = Location(has_many_files=True, is_read_on_nodes=True, suffixes=TASK_FILE_SUFFIXES)

# A file or a pattern as a task would be an input that no fingerprint covers.
TaskName = Annotated[str, Field(pattern=r"^[\w.+:-]+$")]


class BenchmarkSettings(Frozen):
    """Tasks of lm-evaluation-harness that the base and every M_t answer, zero-shot as in the paper.

    Each model gets a task's own prompts without a chat template, so all are asked alike.
    """

    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)] = PAPER_TASKS
    # A folder of task files that comes before the harness's own; docs/evaluation.md has the layout.
    task_files: Annotated[str | None, _TaskFiles] = None
    # Questions of each task, for a trial (MMLU has 57 tasks); null: all.
    limit: PositiveInt | None = None

    def identity(self) -> dict[str, Any]:
        """The tasks in any order, and the limit."""
        return {"tasks": sorted(set(self.tasks)), "limit": self.limit}


class BenchmarkPlacement(Frozen):
    """The way to run lm-evaluation-harness: one process for each model, on one engine's devices."""

    # A Python interpreter on every node that has lm_eval; null: the run's own.
    python: str | None = None
    # null: vllm on GPUs, hf on CPUs. A figure may differ between the two in its last digits.
    backend: Literal["hf", "vllm"] | None = None
    # Questions in one forward pass; null: auto with vllm, 8 with hf.
    batch_size: PositiveInt | Literal["auto"] | None = None

    def chosen_backend(self, device: Literal["cpu", "gpu"]) -> Literal["hf", "vllm"]:
        """The backend for the engines' device."""
        return self.backend or ("vllm" if device == "gpu" else "hf")
