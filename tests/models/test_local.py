"""Model folders on a node: fetched once, and the first of many at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import fsspec
import pytest

from humpback_ray.models import local


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
    together(8, lambda: found.append(local.local_folder(f"file://{source}")))
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {file.name for file in Path(found[0]).iterdir()} == {"config.json", "model.safetensors"}
    light = local.local_folder(f"file://{source}", weights=False)
    assert {file.name for file in Path(light).iterdir()} == {"config.json"}


def test_changed_model_at_a_url_is_copied_again(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"old")
    first = local.local_folder(f"file://{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"new weights")
    second = local.local_folder(f"file://{tmp_path}")
    assert (Path(second) / "model.safetensors").read_bytes() == b"new weights"
    assert not Path(first).exists()
    assert local.local_folder(f"file://{tmp_path}") == second


def test_model_at_a_url_with_changed_tags_has_only_those_copied_again(tmp_path):
    """Other weights under an unchanged entry show whether the node copies them."""
    source = fsspec.filesystem("memory")
    source.pipe_file("/tags/model.safetensors", b"weights")
    source.pipe_file("/tags/chat_template.jinja", b"old")
    source.pipe_file("/tags/old.json", b"{}")
    first = Path(local.local_folder("memory://tags"))
    weights = (first / "model.safetensors").stat().st_ino
    source.pipe_file("/tags/chat_template.jinja", b"new tags")
    source.rm_file("/tags/old.json")
    with source.store["/tags/model.safetensors"] as weights_at_url:
        weights_at_url.seek(0)
        weights_at_url.write(b"changed")
    assert source.cat_file("/tags/model.safetensors") == b"changed"
    second = Path(local.local_folder("memory://tags"))
    assert not first.exists()
    assert (second / "model.safetensors").stat().st_ino == weights
    contents = {file.name: file.read_bytes() for file in second.iterdir()}
    assert contents == {"model.safetensors": b"weights", "chat_template.jinja": b"new tags"}
    kept = {file.stat().st_ino for file in second.iterdir()}
    assert {f.stat().st_ino for f in second.parent.rglob("*") if f.is_file()} == kept


def test_copy_of_a_model_that_was_killed_is_completed(tmp_path):
    source = fsspec.filesystem("memory")
    source.pipe_file("/killed/model-1.safetensors", b"first")
    source.pipe_file("/killed/model-2.safetensors", b"second")
    folder = Path(local.local_folder("memory://killed"))
    folder.rename(f"{folder}.partial")
    (folder.parent / "files" / "half.partial").write_bytes(b"sec")
    assert Path(local.local_folder("memory://killed")) == folder
    assert (folder / "model-2.safetensors").read_bytes() == b"second"
    assert {path.name for path in folder.parent.iterdir()} == {"files", folder.name}
    assert len(list((folder.parent / "files").iterdir())) == 2


def test_missing_model_at_a_url_fails_after_retries(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "BACK_OFF_SECONDS", (0.01, 0.01))
    with pytest.raises(FileNotFoundError):
        local.local_folder(f"file://{tmp_path}/nowhere")


def test_first_alone_then_the_others_together():
    inside, most_before_first_done, num_done = 0, 0, 0
    lock = threading.Lock()
    all_others = threading.Barrier(4)

    def work() -> None:
        nonlocal inside, most_before_first_done, num_done
        with local.first_alone("compile a model"):
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
        with local.first_alone("compile another model"):
            raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError):
        fail()
    with local.first_alone("compile another model"):
        pass
