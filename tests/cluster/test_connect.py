"""Starting a cluster in this process: its terminal, and the folders that it writes to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from ray._private.utils import validate_socket_filepath

from humpback_ray.cluster import connect
from humpback_ray.cluster.connect import MAX_TEMPORARY_FOLDER
from humpback_ray.errors import UserError

LONG = "/tmp/" + "x" * MAX_TEMPORARY_FOLDER


def test_longest_path_of_rays_sockets_fits_and_no_longer_one():
    folder = "x" * MAX_TEMPORARY_FOLDER
    below = "ray/session_2026-11-28_20-22-48_697628_4194304/sockets/plasma_store"
    validate_socket_filepath(f"{folder}/{below}")
    with pytest.raises(OSError, match="AF_UNIX path length cannot exceed"):
        validate_socket_filepath(f"{folder}x/{below}")


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_temporary_folder_with_a_long_path_names_the_variable_and_the_way_out(
    variable, monkeypatch
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, LONG)
    with pytest.raises(UserError, match=rf"^{variable} is {LONG}, .* set RAY_TMPDIR to a folder"):
        connect._check_temporary_folder()


def test_temporary_folder_that_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    with pytest.raises(UserError, match="RAY_TMPDIR is /proc/none, where Ray cannot write"):
        connect._check_temporary_folder()


def test_short_temporary_folder_of_ray_comes_before_a_long_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    connect._check_temporary_folder()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.delenv("TMPDIR")
    connect._check_temporary_folder()


def test_caches_move_to_the_temporary_folder_only_where_the_home_is_read_only(
    tmp_path, monkeypatch
):
    for variable in connect.CACHES:
        # Set and deleted, so that monkeypatch restores what the call sets.
        monkeypatch.setenv(variable, "x")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    connect._move_caches()
    assert not set(connect.CACHES) & os.environ.keys()
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    connect._move_caches()
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    folders = {os.environ[variable] for variable in connect.CACHES} - {"/mine"}
    assert len(folders) == len(connect.CACHES) - 1
    assert all(folder.startswith(tempfile.gettempdir()) for folder in folders)


def test_native_lines_of_a_start_do_not_reach_the_terminal(capfd):
    with connect.native_lines_held_back():
        os.write(2, b"logging.cc:303: a line")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_native_lines_of_a_failed_start_reach_the_terminal(capfd):
    @connect.native_lines_held_back()
    def start() -> None:
        os.write(2, b"raylet: no memory")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        start()
    assert capfd.readouterr().err == "raylet: no memory"


@pytest.mark.slow
def test_cluster_of_a_command_starts_without_a_line_on_the_terminal():
    command = [sys.executable, "-m", "tests.support.joined_cluster"]
    started = subprocess.run(command, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    assert started.stdout + started.stderr == ""
