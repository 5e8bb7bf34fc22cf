"""Runs the arms of ablations one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from humpback_ray import storage
from humpback_ray.ablations.plan import AblationPlan, owner
from humpback_ray.errors import UserError
from humpback_ray.execution import runner
from humpback_ray.execution.stage import ABLATIONS, State


def run_arms(
    plan: AblationPlan, console: Console, make_engine: Callable[..., Any] | None = None
) -> None:
    """Run the stages of all arms that are not done. The same plan after a kill resumes them.

    Each arm's recipe and logs lie in its own folder, so the run's own stay as they are.

    Args:
        plan: the stages of the run itself in it are done.
        console: for progress.
        make_engine: builds an engine in place of vLLM's.

    Raises:
        UserError: an arm's folder has stages of other settings; nothing has run then.
    """
    _refuse_changed(plan)
    for number, planned in enumerate(plan.arms, start=1):
        # A model that another arm has made stays as that one wrapped it.
        of_arms = [stage for stage in planned.stages if stage.path.startswith(f"{ABLATIONS}/")]
        own = [
            stage.path
            for stage in of_arms
            if owner(stage.path) == planned.arm.name or plan.states[stage.path] is not State.DONE
        ]
        if not own:
            continue
        changes = " ".join(planned.arm.overrides) or "the run's own settings"
        console.print(
            f"arm {number}/{len(plan.arms)} {planned.arm.name}: {changes}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        runner.run(
            planned.stages, planned.recipe, plan.run_folder, console, only=own,
            make_engine=make_engine,
            attempts_in=storage.join(plan.run_folder, ABLATIONS, planned.arm.name),
        )  # fmt: skip


def _refuse_changed(plan: AblationPlan) -> None:
    """Refuse at once what the runner would refuse after the arms before it have run."""
    changed = [
        stage.path
        for planned in plan.arms
        for stage in planned.stages
        if plan.states[stage.path] is State.CHANGED and not stage.is_replaceable
    ]
    if changed:
        arm = storage.join(plan.run_folder, ABLATIONS, owner(changed[0]))
        raise UserError(
            f"{storage.join(plan.run_folder, changed[0])} was made under other settings or by "
            f"another state of the run: delete {arm}, or move it away, and give the same command "
            "again"
        )
