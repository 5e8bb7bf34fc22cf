"""Settings of the last iteration, and the tags at inference: which stages they change."""

from __future__ import annotations

import pytest

from humpback_ray import pipeline
from humpback_ray.execution.stage import Stage
from humpback_ray.method import prompts
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.finetune import Finetune
from tests.support.run_folder import recipe


def stages(*overrides: str) -> dict[str, Stage]:
    return {stage.path: stage for stage in pipeline.stages_of(recipe(*overrides))}


def changed(*overrides: str) -> set[str]:
    """Stages that would run again; without a corpus, identities say it as fingerprints do."""
    before, after = stages(), stages(*overrides)
    assert before.keys() == after.keys()
    return {path for path in before if before[path].fingerprint != after[path].fingerprint}


LAST = {"iter-2/examples", "iter-2/model", "evaluation/M_2"}


@pytest.mark.parametrize(
    "override",
    [
        "selection={method: all, max_pairs: 9}",
        "selection={method: share, share: 0.25, with_seed: false}",
        "tags=false",
    ],
)
def test_setting_of_the_last_iteration_changes_its_stages_alone(override):
    assert changed(f"settings.last_iteration.{override}") == LAST


def test_selection_of_the_last_iteration_that_equals_the_runs_changes_nothing():
    assert not changed("settings.last_iteration.selection={method: share, share: 0.25}")


def test_last_examples_without_tags_have_none_and_the_others_keep_theirs():
    found = stages("settings.last_iteration.tags=false")
    tags = {path: (s.seed_tag, s.web_tag) for path, s in found.items() if isinstance(s, Curate)}
    assert tags["iter-2/examples"] == ("", "")
    assert all(tags["iter-1/examples"])


@pytest.mark.parametrize("inference", ["both", "seed", "none"])
def test_tags_at_inference_reach_evaluations_and_chat_templates_and_retrain_nothing(inference):
    override = f"settings.prompts.inference={inference}"
    evaluations = {f"evaluation/{name}" for name in ("base", "M_0", "M_1", "M_2")}
    assert changed(override) == (set() if inference == "both" else evaluations)
    found, tags = stages(override), recipe().settings.prompts
    asked = {"both": (tags.seed_tag, tags.web_tag), "seed": (tags.seed_tag, ""), "none": ("", "")}
    last, model = found["evaluation/M_2"], found["iter-2/model"]
    assert isinstance(last, Evaluate)
    assert isinstance(model, Finetune)
    assert (last.seed_tag, last.web_tag) == model.tags == asked[inference]
    sentences = prompts.render("Why?", last.seed_tag, last.web_tag).splitlines()
    assert len(sentences) == {"both": 6, "seed": 5, "none": 4}[inference]
