"""The whole loop once, on the real engines, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.execution.stage import State
from humpback_ray.rows import Candidate, Evaluated, RatedPair, TaskKind, TrainingExample
from tests.support.pipeline import OVERRIDES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def humpback(*arguments: str, timeout: int = 1100) -> subprocess.CompletedProcess[str]:
    """Run the command line in a separate process, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "humpback_ray.cli", *arguments],
        capture_output=True, text=True, timeout=timeout, cwd=Path(__file__).parents[1],
    )  # fmt: skip


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, corpus) -> list[str]:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    overrides = [*OVERRIDES, f"settings.corpus.path={corpus}"]
    return ["tiny", "--run", str(folder), *(f"--set={override}" for override in overrides)]


@pytest.fixture(scope="module")
def finished(arguments) -> Path:
    result = humpback("run", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tiny: done" in result.stdout
    assert "logging.cc" not in result.stderr  # Ray's own
    return Path(arguments[2])


def records(folder: Path) -> dict[str, dict]:
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())
        for path in folder.rglob("record.json")
    }


def test_run_has_a_record_for_each_stage_whose_counts_add_up(finished):
    found = records(finished)
    assert set(found) == {
        "seed", "segments", "base/initial", "base/examples", "base/model",
        "backward/examples", "backward/model", "forward-0/examples", "forward-0/model",
        "candidates", "iter-1/rated", "iter-1/examples", "iter-1/model",
        "iter-2/rated", "iter-2/examples", "iter-2/model",
        "evaluation/base", "evaluation/M_0", "evaluation/M_1", "evaluation/M_2",
    }  # fmt: skip
    segments = found["segments"]["outcomes"]
    assert segments["invalid_characters"] == 2
    assert segments["unreadable"] == 2
    num_kept = segments["kept"]
    assert num_kept > 10
    assert found["candidates"]["num_rows"] == num_kept
    for t in (1, 2):
        rated = found[f"iter-{t}/rated"]
        assert rated["num_rows"] == num_kept
        assert rated["figures"]["scored_share"] == 1.0
        num_scored = rated["outcomes"]["scored"]
        assert found[f"iter-{t}/examples"]["outcomes"] == {
            "seed": 40, "web": round(0.25 * num_scored)
        }  # fmt: skip


def test_rows_of_a_run_follow_the_method(finished):
    candidates = {
        row.candidate_id: row for row in tables.read_rows(f"{finished}/candidates/rows", Candidate)
    }
    examples = tables.read_rows(f"{finished}/iter-2/examples/rows", TrainingExample)
    ratings = tables.read_rows(f"{finished}/iter-2/rated/rows", RatedPair)
    rated = {row.candidate_id: row for row in ratings}
    web = [row for row in examples if row.origin == "web"]
    chosen = {row.example_id.removeprefix("web-") for row in web}
    assert {row.tag for row in web} == {"Answer with knowledge from web search."}
    assert {row.tag for row in examples if row.origin == "seed"} == {
        "Answer in the style of an AI Assistant."
    }
    for row in web:
        candidate = candidates[row.example_id.removeprefix("web-")]
        assert (row.prompt, row.completion) == (candidate.instruction, candidate.response)
    left = [row.score for name, row in rated.items() if name not in chosen and row.score]
    assert min(rated[name].score for name in chosen) >= max(left)
    backward = tables.read_rows(f"{finished}/backward/examples/rows", TrainingExample)
    forward = tables.read_rows(f"{finished}/forward-0/examples/rows", TrainingExample)
    instructions = {row.example_id: row.prompt for row in forward}
    assert all(row.completion == instructions[row.example_id] for row in backward)


def test_models_have_the_bases_tensors_and_start_from_its_values(finished):
    from safetensors import safe_open

    def tensors(folder):
        with safe_open(finished / folder / "model.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    base = tensors("base/model")
    for folder in ("backward/model", "forward-0/model", "iter-1/model", "iter-2/model"):
        model = tensors(folder)
        assert {n: (t.shape, t.dtype) for n, t in model.items()} == {
            n: (t.shape, t.dtype) for n, t in base.items()
        }
        assert any(not model[name].equal(base[name]) for name in base)
    assert not list(finished.rglob("_training"))


def test_vllm_scores_of_the_exported_model_equal_transformers(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from humpback_ray.method import tokens

    folder = finished / "iter-2/model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = tables.read_rows(f"{finished}/evaluation/M_2/rows", Evaluated)
    scored = [row for row in rows if row.kind is TaskKind.LOSS]
    assert len(scored) == 8
    for row in scored[:4]:
        example = tokens.example_ids(
            tokenizer, row.instruction, "Answer in the style of an AI Assistant.", row.output, 2048
        )
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            steps = model(ids).logits[0, :-1].log_softmax(-1)
        losses = -steps.gather(1, ids[0, 1:, None])[example.num_prompt - 1 :]
        assert row.num_loss_tokens == len(example.ids) - example.num_prompt
        assert row.loss == pytest.approx(losses.mean().item(), rel=1e-2)


def test_chat_template_of_the_last_model_equals_its_evaluations(finished):
    from transformers import AutoTokenizer

    from humpback_ray.config.settings import PromptSettings
    from humpback_ray.method import prompts, tokens

    tokenizer = AutoTokenizer.from_pretrained(finished / "iter-2/model")
    by_template = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name a fruit."}], add_generation_prompt=True,
        return_dict=False,
    )  # fmt: skip
    tags = prompts.inference_tags(PromptSettings())
    assert by_template == tokens.prompt_ids(tokenizer, "Name a fruit.", *tags)


def test_outputs_have_alpaca_evals_format_and_open_with_datasets(finished):
    import datasets

    outputs = json.loads((finished / "evaluation/M_2/outputs.json").read_text())
    assert len(outputs) == 24
    assert set(outputs[0]) == {"dataset", "instruction", "output", "generator"}
    rows = datasets.load_dataset(
        str(finished / "candidates/rows"), split="train", cache_dir=str(finished / "cache")
    )
    assert len(rows) == records(finished)["candidates"]["num_rows"]


def test_second_run_does_nothing(finished, arguments):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    result = humpback("run", *arguments, timeout=120)
    assert result.returncode == 0
    assert result.stdout.count("done before") == 20
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before


def test_changed_settings_are_refused_and_changed_placement_is_not(finished, arguments):
    result = humpback("run", *arguments, "--set=settings.augmentation.temperature=0.9")
    assert result.returncode == 2
    assert "settings.sampling.temperature: 0.7 → 0.9" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    result = humpback("run", *arguments, "--set=placement.engine.rows_per_batch=8")
    assert result.returncode == 0


def states(finished: Path, arguments: list[str], override: str) -> dict[State, set[str]]:
    """Paths of the finished run's stages by their state under one more override."""
    overrides = [argument.removeprefix("--set=") for argument in arguments[3:]]
    found: dict[State, set[str]] = defaultdict(set)
    for stage in pipeline.stages_of(load_recipe("tiny", [*overrides, override])):
        state, begun = stage.find(str(finished))
        found[state].add(stage.path)
        if state is State.CHANGED:
            assert stage.differences(begun)
            assert stage.is_replaceable == stage.path.startswith("evaluation/")
    return dict(found)


def test_other_evaluation_sampling_reruns_only_the_evaluations(finished, arguments):
    found = states(finished, arguments, "settings.evaluation.sampling.temperature=0")
    evaluations = {f"evaluation/{name}" for name in ("base", "M_0", "M_1", "M_2")}
    assert found.pop(State.CHANGED) == evaluations
    assert found.keys() == {State.DONE}
    assert len(found[State.DONE]) == 16


def test_other_augmentation_sampling_changes_candidates_and_later_stages(finished, arguments):
    found = states(finished, arguments, "settings.augmentation.temperature=0.9")
    assert found.keys() == {State.DONE, State.CHANGED}
    assert found[State.DONE] == {
        "seed", "segments", "base/initial", "base/examples", "base/model",
        "backward/examples", "backward/model", "forward-0/examples", "forward-0/model",
        "evaluation/base", "evaluation/M_0",
    }  # fmt: skip


def test_run_can_be_shown_by_every_command(finished, arguments):
    assert "iter-2/model" in humpback("status", str(finished)).stdout
    status = json.loads(humpback("status", str(finished), "--json").stdout)
    assert [stage["state"] for stage in status["stages"]] == ["done"] * 20
    assert status["state"] == "done"
    assert humpback("plan", *arguments).stdout.count("done") == 20
    shown = humpback("look", f"{finished}/iter-1/examples", "-n", "2", "--where", "origin=seed")
    assert "masked, no loss" in shown.stdout
    assert "Answer in the style of an AI Assistant." in shown.stdout
    assert "2 of 40 rows" in shown.stdout


@pytest.mark.long
def test_probe_forecasts_the_time_of_the_run(finished, tmp_path):
    """The probe samples the run, with the models of the run before it generated.

    A factor of two and not 25%, because tests share machines with other work: with nothing beside
    it, compare `humpback probe RUN` after `humpback run tiny --run RUN --until segments` with the
    seconds of the finished run.
    """
    later = shutil.ignore_patterns("iter-*", "candidates", "evaluation", "attempts")
    folder = tmp_path / "tiny"
    shutil.copytree(finished, folder, ignore=later)
    (folder / "_probe/candidates").mkdir(parents=True)  # a killed probe's
    before = records(folder)
    result = humpback("probe", str(folder), "--rows", "12")
    assert result.returncode == 0, result.stdout + result.stderr
    assert records(folder) == before
    assert not (folder / "_probe").exists()

    found = json.loads((folder / "probe.json").read_text())
    assert found["num_rows"] == 12
    stages, took = {stage["path"]: stage for stage in found["stages"]}, records(finished)
    assert stages.keys() == took.keys()
    assert all(stages[path]["is_done"] == (path in before) for path in stages)
    assert stages["candidates"]["num_units"] == took["candidates"]["num_rows"]
    assert stages["iter-2/model"]["num_units"] == took["iter-2/model"]["figures"]["num_steps"]
    foretold = sum(stage["seconds"] for stage in stages.values() if not stage["is_done"])
    needed = sum(record["seconds"] for path, record in took.items() if path not in before)
    assert 0.5 < foretold / needed < 2


def test_chat_with_the_last_model_answers_and_shows_no_progress_bar(finished, capfd):
    from humpback_ray.figures.run_facts import last_model
    from humpback_ray.serving.chat import Chat

    folder = last_model(str(finished))
    assert folder.endswith("iter-2/model")
    talk = Chat(folder, max_tokens=8)
    assert "".join(talk.answer("Name a fruit."))
    assert "".join(talk.answer("And another?"))
    assert "Loading weights" not in capfd.readouterr().err


def test_declared_stages_of_large_recipes_are_consistent(tmp_path, seed_file, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.md").write_text("# A\n\ntext\n")
    (tmp_path / "prompts.json").write_text('[{"instruction": "x"}]')
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("llama-7b", "llama-33b", "llama-65b"):
        recipe = load_recipe(
            name,
            [f"settings.seed.path={seed_file}", f"settings.corpus.path={tmp_path}/texts",
             f"settings.evaluation.prompts={tmp_path}/prompts.json"],
        )  # fmt: skip
        stages = pipeline.stages_of(recipe)
        assert len(stages) == 17
        assert "base/model" not in {stage.path for stage in stages}
        assert len({stage.fingerprint for stage in stages}) == len(stages)
    assert not os.path.exists(tmp_path / "run")
