"""A finished run made without engines, plans of ablations on it, and made-up results of arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from humpback_ray import storage, tables
from humpback_ray.ablations.arms import Group, Values
from humpback_ray.ablations.plan import AblationPlan, plan_ablations
from humpback_ray.execution.stage import Result, Stage, State
from humpback_ray.rows import Evaluated, Finish, TaskKind
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from tests.support.run_folder import judge_figures, write_run

JUDGE = "settings.evaluation.judge.endpoint={url: 'https://judge.example/v1', model: judge-70b}"
PROVENANCE = {"finished_at": "2026-11-28T10:00:00Z"}


class FinishedRun:
    """A finished run of the demo's recipe, with a corpus of one file."""

    def __init__(self, folder: Path, *overrides: str, until: str | None = None) -> None:
        corpus = folder / "corpus"
        corpus.mkdir()
        (corpus / "page.md").write_text("# Tides\n\nThe moon pulls.\n")
        self.overrides = [f"settings.corpus.path={corpus}", *overrides]
        self.folder = write_run(f"{folder}/run", overrides=self.overrides, until=until)

    def plan(self, *groups: Group, overrides: tuple[str, ...] = (), **values: Any) -> AblationPlan:
        changed = [*self.overrides, *overrides]
        return plan_ablations("tiny", changed, self.folder, groups, Values(**values))

    def finish(self, plan: AblationPlan, win_rates: dict[str, float] | None = None) -> None:
        """Write made-up results of all stages that are to compute.

        Args:
            win_rates: of arms by name; 60 where an arm is not among them.
        """
        for arm in plan.arms:
            for stage in arm.stages:
                if plan.states[stage.path] is not State.DONE:
                    rate = (win_rates or {}).get(arm.arm.name, 60.0)
                    stage.finish(self.folder, self.result(stage, rate), 1.0, PROVENANCE)

    def result(self, stage: Stage, win_rate: float = 60.0) -> Result:
        """Write a stage's rows, where arms are compared by them; returns its result."""
        if isinstance(stage, Curate):
            seed, web = 20 * stage.settings.with_seed, stage.settings.max_pairs or 14
            return Result(seed + web, {"seed": seed, "web": web} if seed else {"web": web})
        if isinstance(stage, Evaluate):
            rows = [
                Evaluated(f"pair-{n}", TaskKind.LOSS, "held_out", "Why?", "So.", 5.8 + n % 5 / 10
                          + n % 3 / 50 - n / 1000, 100, Finish.STOP)
                for n in range(8)
            ]  # fmt: skip
            tables.write_rows(f"{self.folder}/{stage.path}/rows", rows, Evaluated)
            return Result(8, {"stop": 8})
        if isinstance(stage, Judge):
            figures = judge_figures()
            game = {**figures["games"][0], "opponent": "M_0", "win_rate": win_rate,
                    "low": win_rate - 6, "high": win_rate + 6}  # fmt: skip
            return Result(4, {"judged": 4}, {**figures, "games": [game]})
        if isinstance(stage, Finetune):
            storage.write_json(f"{self.folder}/{stage.path}/generation_config.json", {})
            figures = {"num_steps": 24, "batch_size": 8, "num_truncated": 0, "num_dropped": 0}
            return Result(1, {"trained": 1}, figures)
        return Result(1, {"read": 1})
