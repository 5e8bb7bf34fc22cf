"""Runs on object storage: a real S3 server on loopback, through s3fs, killed, slowed down and gone.

In processes of their own, as a user's; what they have stored is read by this one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from humpback_ray import storage, tables
from humpback_ray.figures import run_facts
from humpback_ray.report import look
from humpback_ray.rows import Candidate, Finish, Segment
from humpback_ray.serving.chat import Chat
from tests.support.object_storage import BUCKET, ObjectStorage
from tests.support.pipeline import OVERRIDES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
NUM_SECTIONS = 160
CHECKPOINT_EVERY = 8
SECONDS = 900  # after which a run counts as hanging


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStorage]:
    """One server for all: fsspec keeps a client for as long as a process lives."""
    server = ObjectStorage()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.go()


@pytest.fixture(scope="module")
def sources(store, model_folder) -> str:
    """A URL with a model and a corpus of one page."""
    url, dice = f"s3://{BUCKET}/sources", random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnop", k=6)) for _ in range(2000)]
    sections = [
        f"# Part {n}\n\n{' '.join(dice.choices(words, k=95))}." for n in range(NUM_SECTIONS)
    ]
    storage.write_text(f"{url}/corpus/page.md", "\n\n".join(sections))
    store.files.put(f"{model_folder}/", f"{BUCKET}/sources/model/", recursive=True)
    return url


def has_checkpoint(files: Any, training: str) -> bool:
    """True once Ray Train lists a checkpoint; its files are there before, in any order."""
    snapshots = files.glob(f"{training}/*/checkpoint_manager_snapshot.json")
    return any(json.loads(files.cat(path))["latest_checkpoint_result"] for path in snapshots)


class Driver:
    """A run in a separate process, which the same command resumes."""

    def __init__(self, folder: Path, run: str, *command: str) -> None:
        self.run = run
        self._command, self._log = [sys.executable, "-m", *command], folder / "log"
        self._family: list[psutil.Process] = []
        self.start()

    def start(self) -> None:
        # Copies of models stay on a node; here they go with the test's folder.
        places = {"TMPDIR": str(self._log.parent), "RAY_TMPDIR": "/tmp"}
        variables = os.environ | places | {"RAY_BACKEND_LOG_LEVEL": "fatal"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=variables, text=True,
                stdout=log, stderr=subprocess.PIPE,
            )  # fmt: skip

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self._process.poll() is None, self._process.communicate()[1]
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9 of the driver alone; Ray's own processes are left to themselves."""
        self._family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.communicate()

    def finish(self) -> tuple[int, str]:
        """Exit code, and what was written to the standard error."""
        _, error = self._process.communicate(timeout=SECONDS)
        return self._process.returncode, error

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        for process in self._family:
            if process.is_running():
                process.kill()


@pytest.fixture
def short_run(store, sources, tmp_path) -> Iterator[Driver]:
    run = f"s3://{BUCKET}/{tmp_path.name}"
    driver = Driver(
        tmp_path, run, "tests.support.stored_run", run, sources, str(tmp_path / "counter")
    )
    yield driver
    driver.close()


def num_computed(folder: Path) -> int:
    counter = folder / "counter"
    return counter.stat().st_size if counter.exists() else 0


def check_rows(run: str) -> list[Candidate]:
    """Every segment has one candidate; what a stage leaves while it works is gone."""
    segments = tables.read_rows(f"{run}/segments/rows", Segment)
    candidates = tables.read_rows(f"{run}/candidates/rows", Candidate)
    assert sorted(row.segment_id for row in candidates) == [row.segment_id for row in segments]
    assert len({row.segment_id for row in candidates}) == len(candidates)
    assert {row.finish for row in candidates} == {Finish.STOP}, "engines answered all"
    return candidates


@pytest.mark.long
def test_killed_run_on_s3_resumes_with_every_row_once(short_run, tmp_path):
    short_run.wait_until(lambda: num_computed(tmp_path) >= 40)
    short_run.kill()
    num_before = num_computed(tmp_path)
    short_run.start()
    code, error = short_run.finish()
    assert code == 0, error
    run = short_run.run
    assert len(check_rows(run)) == NUM_SECTIONS
    # What was in the engine and in batches that were not full is asked again.
    assert num_before < num_computed(tmp_path) <= NUM_SECTIONS + 4 * 8 + 8
    assert storage.names(f"{run}/candidates") >= {"record.json", "rows"}
    assert storage.names(f"{run}/attempts") == {"001", "002"}
    log = storage.read_text(f"{run}/attempts/002/run.log", "log", "")
    assert "resuming candidates" in log
    assert "finished candidates" in log


@pytest.mark.long
def test_run_on_a_throttling_store_finishes(store, short_run):
    store.refused_share, store.delayed_share, store.delay = 0.2, 0.1, 0.5
    try:
        code, error = short_run.finish()
    finally:
        store.refused_share = store.delayed_share = 0.0
    assert code == 0, error
    assert store.num_refused > 10
    assert len(check_rows(short_run.run)) == NUM_SECTIONS


@pytest.mark.long
def test_lost_store_ends_the_run_with_one_line_and_the_run_resumes(store, short_run, tmp_path):
    short_run.wait_until(lambda: num_computed(tmp_path) >= 40)
    store.go()
    code, error = short_run.finish()
    assert code == 2, error
    assert "Traceback" not in error
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert f"cannot write to {short_run.run}" in line
    assert ": Could not connect" in line
    store.come()
    short_run.start()
    code, error = short_run.finish()
    assert code == 0, error
    assert len(check_rows(short_run.run)) == NUM_SECTIONS


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_whole_method_on_s3_survives_kills_in_training_and_generation(
    store, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = f"s3://{BUCKET}/whole"
    settings = [*OVERRIDES, f"settings.corpus.path={sources}/corpus",
                f"placement.training.checkpoint_every={CHECKPOINT_EVERY}"]  # fmt: skip
    command = ["humpback_ray.cli", "run", "tiny", "--run", run]
    driver = Driver(tmp_path, run, *command, *(f"--set={setting}" for setting in settings))
    try:
        training = f"{BUCKET}/whole/base/model/_training"
        driver.wait_until(lambda: has_checkpoint(store.files, training))
        driver.kill()
        driver.start()
        driver.wait_until(lambda: storage.exists(f"{run}/candidates/started.json"))
        driver.kill()
        driver.start()
        code, error = driver.finish()
        assert code == 0, error
    finally:
        driver.close()
    second = storage.read_json(f"{run}/attempts/002/attempt.json")["provenance"]["finished_at"]
    lines = storage.read_text(f"{run}/base/model/metrics.jsonl", "", "").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if line["time"] > second]
    assert CHECKPOINT_EVERY < steps[0] <= steps[-1] == 30
    stages = run_facts.status_of(run).stages
    assert {stage.state for stage in stages} == {"done"}
    assert len(stages) == 20
    check_rows(run)
    assert len(look.select_rows(f"{run}/iter-2/examples", 2, ["origin=web"]).rows) == 2
    assert storage.names(f"{run}/attempts") == {"001", "002", "003"}
    assert not store.files.glob(f"{BUCKET}/whole/**/_training/**")
    assert store.files.glob(f"{BUCKET}/whole/iter-2/model/tensorboard/events*")
    assert "".join(Chat(run_facts.last_model(run), max_tokens=8).answer("Name a fruit."))


def test_missing_bucket_is_reported_and_not_created(store):
    with pytest.raises(ValueError, match=r"cannot write to s3://buckte/run: .*bucket"):
        storage.check_writable("s3://buckte/run")
    assert store.files.ls("") == [BUCKET]


def test_refused_requests_are_retried_until_answered(store):
    store.refused_share, num_before = 0.3, store.num_refused
    try:
        for number in range(15):
            storage.write_text(f"s3://{BUCKET}/refused/{number}", "")
    finally:
        store.refused_share = 0.0
    assert store.num_refused > num_before
    assert len(storage.names(f"s3://{BUCKET}/refused")) == 15


def test_files_on_s3_grow_and_show_other_writers(store):
    url = f"s3://{BUCKET}/folder"
    storage.append_text(f"{url}/metrics.jsonl", "a\n")
    assert storage.names(url) == {"metrics.jsonl"}
    store.files.pipe_file(f"{BUCKET}/folder/other", b"")
    storage.append_text(f"{url}/metrics.jsonl", "b\n")
    assert storage.names(url) == {"metrics.jsonl", "other"}
    assert storage.read_text(f"{url}/metrics.jsonl", "", "") == "a\nb\n"
