"""Model folders on a node: fetched once, and the first of many at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from humpback_ray import model_folders


@pytest.fixture(autouse=True)
def a_node_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))


def together(num_threads: int, work) -> None:
    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)


def test_model_at_a_url_is_copied_once_for_many_processes(tmp_path):
    source = tmp_path / "store" / "model"
    source.mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"weights")
    found: list[str] = []
    together(8, lambda: found.append(model_folders.local_folder(f"file://{source}")))
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {file.name for file in Path(found[0]).iterdir()} == {"config.json", "model.safetensors"}
    light = model_folders.local_folder(f"file://{source}", weights=False)
    assert {file.name for file in Path(light).iterdir()} == {"config.json"}


def test_changed_model_at_a_url_is_copied_again(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"old")
    first = model_folders.local_folder(f"file://{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"new weights")
    second = model_folders.local_folder(f"file://{tmp_path}")
    assert (Path(second) / "model.safetensors").read_bytes() == b"new weights"
    assert not Path(first).exists()
    assert model_folders.local_folder(f"file://{tmp_path}") == second


def test_missing_model_at_a_url_fails_after_retries(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "BACK_OFF_SECONDS", (0.01, 0.01))
    with pytest.raises(FileNotFoundError):
        model_folders.local_folder(f"file://{tmp_path}/nowhere")


def test_first_alone_then_the_others_together():
    inside, most_before_first_done, num_done = 0, 0, 0
    lock = threading.Lock()
    all_others = threading.Barrier(4)

    def work() -> None:
        nonlocal inside, most_before_first_done, num_done
        with model_folders.first_alone("compile a model"):
            with lock:
                inside += 1
                is_first = num_done == 0
                if is_first:
                    most_before_first_done = max(most_before_first_done, inside)
            if not is_first:
                all_others.wait(timeout=30)  # only passes when the other four are all inside
            with lock:
                inside -= 1
                num_done += 1

    together(5, work)
    assert num_done == 5
    assert most_before_first_done == 1


def test_first_alone_after_a_failure_lets_the_next_be_first():
    def fail() -> None:
        with model_folders.first_alone("compile another model"):
            raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError):
        fail()
    with model_folders.first_alone("compile another model"):
        pass
