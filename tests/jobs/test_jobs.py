"""Jobs: stages that each part may run, files that are packed, mistakes in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args
from ray.runtime_env import RuntimeEnv

from humpback_ray import pipeline, storage
from humpback_ray.config.recipe import load_recipe
from humpback_ray.execution.stage import RECORD, Part, Stage, StageRecord

ROOT = Path(__file__).parents[2]
JOBS = ["run_pipeline", "part"]
PARTS = ["prepare", "finetune", "augment", "rate", "evaluate"]
COMMANDS = [["run_pipeline"], *(["part", name] for name in PARTS)]


@pytest.fixture
def part(monkeypatch):
    """jobs/part.py, imported as `python jobs/part.py` imports its neighbours."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    import part

    return part


@pytest.fixture
def stages(tmp_path) -> list[Stage]:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.md").write_text("# A header\n\nA text.\n")
    recipe = load_recipe("tiny", [f"settings.corpus.path={corpus}"])
    return pipeline.stages_of(recipe)


def record(fingerprint: str, identity: dict[str, Any]) -> dict[str, Any]:
    """A stage's record, as JSON."""
    return asdict(StageRecord(fingerprint, identity, 0, {}, {}, 0.0, {}))


def finish(stage: Stage, folder: str) -> None:
    """Leave what a finished stage leaves, as far as other jobs look at it."""
    mark = record(stage.fingerprint, stage.identity)
    storage.write_json(storage.join(folder, stage.path, RECORD), mark)


def submit(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a job's script from the repository's root, as the entry point of a Ray job does."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def kinds_of_stages() -> list[type[Stage]]:
    """Every kind of stage that a run may have."""
    classes = list(Stage.__subclasses__())
    for kind in classes:
        classes += kind.__subclasses__()
    named = [kind for kind in classes if "kind" in vars(kind)]
    return [kind for kind in named if kind.__module__.startswith("humpback_ray.stages.")]


def test_parts_share_out_all_stages(part, stages):
    assert tuple(PARTS) == part.PARTS == get_args(Part)
    kinds = kinds_of_stages()
    more = [
        "settings.corpus.path=/none", "settings.evaluation.judge.model=base",
        "settings.evaluation.benchmarks={}", "settings.distinct_instructions={}",
        "settings.decontamination={}", "settings.evaluation.safety=true",
        "settings.seed.safety={path: /none}", "settings.seed.ratings=/none",
        "settings.prefilter={}", "settings.evaluation.models=[{name: other, model: /none}]",
    ]  # fmt: skip
    text = ["settings.corpus.path=/none", "settings.base.text=/none"]
    recipes = [load_recipe("smollm2", more), load_recipe("tiny", text)]
    declared = [*stages, *(stage for recipe in recipes for stage in pipeline.stages_of(recipe))]
    assert {type(stage) for stage in declared} == set(kinds)
    assert len({kind.kind for kind in kinds}) == len(kinds)
    assert {kind.part for kind in kinds} == set(PARTS)
    assert {path.stem for path in (ROOT / "jobs").glob("*.*")} == set(JOBS)


def test_parts_in_order_run_the_whole_method(part, stages, tmp_path):
    folder = str(tmp_path / "run")
    by_path = {stage.path: stage for stage in stages}
    order = ["prepare", "finetune", "augment", "rate", "finetune", "rate", "finetune", "evaluate"]
    done: list[str] = []
    for name in order:
        ready, _ = part.plan_part(name, stages, folder)
        new = [path for path in ready if path not in done]
        assert new, f"{name} has nothing to do after {done}"
        for path in new:
            finish(by_path[path], folder)
        done += new
    assert done == [stage.path for stage in stages]
    for name in part.PARTS:  # a second round waits for nothing and skips finished stages
        assert part.plan_part(name, stages, folder)[1] == ""


def test_part_that_must_wait_names_unfinished_stages_by_part(part, stages, tmp_path):
    folder = str(tmp_path / "run")
    assert part.plan_part("augment", stages, folder) == (
        [],
        "candidates waits for jobs/part.py prepare: seed, segments; jobs/part.py finetune: "
        "base/initial, base/examples, base/model, backward/examples, backward/model, "
        "forward-0/examples, forward-0/model",
    )
    for stage in stages[:2]:
        finish(stage, folder)
    ready, waiting = part.plan_part("finetune", stages, folder)
    assert ready[-1] == "forward-0/model"
    assert waiting == (
        "iter-1/examples waits for jobs/part.py augment: candidates; jobs/part.py rate: "
        "iter-1/rated"
    )


def test_stage_made_under_other_settings_counts_as_unfinished(part, stages, tmp_path):
    folder = str(tmp_path / "run")
    finish(stages[0], folder)
    mark = record("of other settings", {})
    storage.write_json(storage.join(folder, "segments", RECORD), mark)
    ready, waiting = part.plan_part("finetune", stages, folder)
    assert ready == []
    assert "jobs/part.py prepare: segments (made under other settings)" in waiting


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_names_its_options(name):
    shown = submit(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--run" in shown.stdout
    assert "--set" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_job_with_an_unknown_recipe_is_refused_in_one_line(command):
    refused = submit(*command, "tinny")
    assert refused.returncode == 2, refused.stdout
    (line,) = refused.stderr.strip().splitlines()
    assert "did you mean 'tiny'?" in line


def test_part_with_an_unknown_name_is_refused_in_one_line():
    refused = submit("part", "train", "tiny")
    assert refused.returncode == 2, refused.stdout
    (line,) = refused.stderr.strip().splitlines()
    assert "unknown part 'train': give one of prepare, finetune, augment, rate, evaluate" in line


def test_part_that_must_wait_writes_nothing(tmp_path):
    (tmp_path / "a.md").write_text("# A header\n\nA text.\n")
    override = f"--set=settings.corpus.path={tmp_path}/a.md"
    refused = submit("part", "rate", "tiny", "--run", str(tmp_path / "run"), override)
    assert refused.returncode == 2, refused.stdout
    (line,) = refused.stderr.strip().splitlines()
    assert "iter-1/rated waits for jobs/part.py prepare: seed, segments" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", JOBS)
def test_runtime_environment_of_a_job_is_valid_for_ray(name):
    path = ROOT / "jobs" / f"{name}.yaml"
    assert f"--runtime-env jobs/{name}.yaml -- python jobs/{name}.py" in path.read_text()
    environment = parse_runtime_env_args(runtime_env=str(path))
    assert RuntimeEnv(**{**environment, "working_dir": None})["env_vars"]["PYTHONUNBUFFERED"] == "1"
    assert set(environment) == {"working_dir", "excludes", "env_vars"}


def test_package_of_a_job_is_small_and_complete(tmp_path):
    environments = [yaml.safe_load((ROOT / f"jobs/{name}.yaml").read_text()) for name in JOBS]
    (excludes,) = {tuple(environment["excludes"]) for environment in environments}
    packed = tmp_path / "working_dir.zip"
    packaging.create_package(
        str(ROOT), packed, include_gitignore=True, include_parent_dir=False,
        excludes=[*ray_constants.get_runtime_env_default_excludes(), *excludes],
    )  # fmt: skip
    names = zipfile.ZipFile(packed).namelist()
    assert packed.stat().st_size < 3 * 2**20
    assert {"humpback_ray/pipeline.py", "humpback_ray/recipes/llama-7b.yaml"} <= set(names)
    assert {f"jobs/{name}.py" for name in JOBS} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert not tops & {".git", ".venv", "runs", "tests", "benchmarks", ".mypy_cache", ".ruff_cache"}
