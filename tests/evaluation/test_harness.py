"""The command for lm-evaluation-harness, what becomes of its files, and its failures."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path

import psutil
import pytest

from humpback_ray.config.benchmarks import BenchmarkSettings
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.errors import UserError
from humpback_ray.evaluation import harness
from tests.support.harness import harness_run, make_interpreter, placement

GPUS = EnginePlacement(
    device="gpu", tensor_parallel_size=2, gpu_memory_utilization=0.8, enforce_eager=True
)


@pytest.fixture
def python(tmp_path) -> str:
    return make_interpreter(tmp_path)


@pytest.fixture
def task_files(tmp_path) -> Path:
    folder = tmp_path / "task files"
    folder.mkdir()
    (folder / "reefs.yaml").write_text("task: reefs\n")
    return folder


def config(**changes) -> dict:
    return harness.config_of(harness_run(Path("/run"), **changes), "/model", None, "/out")


def test_config_on_cpus_takes_transformers_zero_shot():
    assert config() == {
        "model": "hf",
        "model_args": {"pretrained": "/model", "dtype": "auto", "max_length": 512},
        "tasks": ["tides", "dunes"],
        "num_fewshot": 0,
        "batch_size": 8,
        "device": "cpu",
        "output_path": "/out",
        "log_samples": True,
    }


def test_config_on_gpus_takes_vllm_as_the_engines_are_placed():
    found = config(placement=placement(engine=GPUS), revision="v2", trust_remote_code=True)
    assert found["model"] == "vllm"
    assert found["batch_size"] == "auto"
    assert "device" not in found
    assert found["model_args"] == {
        "pretrained": "/model", "dtype": "auto", "revision": "v2", "trust_remote_code": True,
        "max_model_len": 512, "tensor_parallel_size": 2, "pipeline_parallel_size": 1,
        "gpu_memory_utilization": 0.8, "enforce_eager": True,
    }  # fmt: skip


def test_config_with_hf_on_gpus_takes_one_device():
    run = harness_run(Path("/run"), placement=placement(engine=GPUS, backend="hf", batch_size=32))
    found = harness.config_of(run, "/model", "/tasks", "/out")
    assert (found["device"], found["batch_size"], run.num_devices) == ("cuda:0", 32, 1)
    assert found["include_path"] == "/tasks"


def test_limit_is_of_every_task():
    assert config(settings=BenchmarkSettings(tasks=("tides",), limit=7))["limit"] == 7


def test_files_of_the_harness_are_kept_as_they_are(tmp_path, python):
    out = tmp_path / "stage"
    out.mkdir()
    (out / "samples_old_2026.jsonl").write_text("{}\n")  # of a killed attempt
    assert harness.ask_benchmarks(harness_run(out, python)) == "0.4.13"
    names = sorted(path.name for path in out.iterdir())
    assert [name.rpartition("_")[0] for name in names] == [
        "lm", "results", "samples_dunes", "samples_tides",
    ]  # fmt: skip
    content = json.loads(next(out.glob("results_*")).read_text())
    assert content["results"]["tides"]["acc,none"] == pytest.approx(1 / 3)


def test_model_path_with_a_comma_arrives_whole(tmp_path, python):
    harness.ask_benchmarks(harness_run(tmp_path / "stage", python, model="/models/a,b=c ~1"))
    assert '"pretrained": "/models/a,b=c ~1"' in (tmp_path / "stage" / harness.LOG).read_text()


def test_harness_works_in_the_folder_of_task_files(tmp_path, python, task_files):
    run = harness_run(
        tmp_path / "stage", python, task_files=str(task_files),
        settings=BenchmarkSettings(tasks=("reefs",)),
    )  # fmt: skip
    harness.ask_benchmarks(run)
    assert (tmp_path / "stage" / harness.LOG).read_text().rstrip().endswith(str(task_files))


def test_failing_harness_is_a_line_with_its_last_words_and_its_log(tmp_path, python):
    settings = BenchmarkSettings(tasks=("broken",))
    with pytest.raises(UserError, match="exit code 1 on M_2: ConnectionError: no hub") as caught:
        harness.ask_benchmarks(harness_run(tmp_path / "stage", python, settings=settings))
    log = tmp_path / "stage" / harness.LOG
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()


def test_harness_dies_with_the_process_that_started_it(tmp_path):
    command, log = ["sleep", "300"], tmp_path / "log"
    parent = multiprocessing.get_context("fork").Process(
        target=harness._run, args=(command, str(tmp_path), log, "hf")
    )
    parent.start()
    try:
        deadline = time.monotonic() + 20
        while not (children := psutil.Process(parent.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Until it has become the command, it has not asked for the parent's death.
        while children[0].name() != "sleep":
            time.sleep(0.05)
    finally:
        parent.kill()
    gone, _ = psutil.wait_procs(children, timeout=10)
    assert gone == children


def test_interpreter_without_lm_eval_is_refused(tmp_path):
    # An empty environment: no package of this one is seen.
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(UserError, match=r"has no lm_eval.*pip install lm_eval==") as caught:
        harness.check_tasks(BenchmarkSettings(), None, str(bare))
    assert harness.PYTHON_KEY in str(caught.value)


def test_interpreter_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be started \(No such file"):
        harness.check_tasks(BenchmarkSettings(), None, str(tmp_path / "python"))


def test_unknown_tasks_are_named_before_any_work(python):
    settings = BenchmarkSettings(tasks=("tides", "reefs", "skerries"))
    with pytest.raises(UserError, match="Tasks not found: reefs, skerries"):
        harness.check_tasks(settings, None, python)


def test_tasks_of_local_files_are_known(python, task_files):
    settings = BenchmarkSettings(tasks=("tides", "reefs"))
    harness.check_tasks(settings, str(task_files), python)
    with pytest.raises(UserError, match=r"not found: skerries.*task files may add"):
        harness.check_tasks(BenchmarkSettings(tasks=("skerries",)), str(task_files), python)


def test_task_files_at_a_url_are_copied(python, task_files):
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem().pipe("/tasks/reefs.yaml", b"task: reefs\n")
    harness.check_tasks(BenchmarkSettings(tasks=("reefs",)), "memory://tasks", python)


def test_relative_interpreter_is_that_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert harness.interpreter("env/bin/python") == str(tmp_path / "env/bin/python")
    assert harness.interpreter("python3.12") == "python3.12"
    assert harness.interpreter(None) == sys.executable
