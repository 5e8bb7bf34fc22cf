"""`humpback push` against a hub on this machine: it commits what the dry run lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from humpback_ray.cli import app
from humpback_ray.publishing.plan import PushRequest, plan_push
from tests.support.hub import TOKEN, Hub, hub
from tests.support.published_run import write_published_run

RUNNER = CliRunner()


def push(server: Hub, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, because the hub's client reads its variables once."""
    command = [sys.executable, "-m", "humpback_ray.cli", "push", str(run), "--to", "acme", *options]
    variables = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
                 "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(run / "hub")}  # fmt: skip
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def run(tmp_path) -> Path:
    return write_published_run(tmp_path / "demo")


def test_push_commits_what_the_plan_lists_and_shows_no_token(run):
    planned = plan_push(PushRequest(str(run), "acme", models=("M_2",)))
    with hub() as server:
        server.files["models/acme/demo-M_2"] = {
            "model-00002-of-00002.safetensors": b"old", "notes.md": b"of a person",
        }  # fmt: skip
        result = push(server, run, "--models", "M_2")
    assert result.returncode == 0, result.stderr
    listed = {
        f"{each.kind}s/{each.repo_id}": {f.path: Path(f.location).read_bytes() for f in each.files}
        for each in planned
    }
    listed["models/acme/demo-M_2"]["notes.md"] = b"of a person"
    assert server.files == listed
    assert server.deleted == {"models/acme/demo-M_2": ["model-00002-of-00002.safetensors"]}
    assert [(each["name"], each["visibility"]) for each in server.created] == [
        ("demo-curated", "private"), ("demo-M_2", "private"),
    ]  # fmt: skip
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in result.stdout + result.stderr
    assert f"uploaded: {server.endpoint}/acme/demo-M_2" in result.stdout


def test_push_that_the_hub_refuses_is_one_line_and_exit_code_2(run):
    with hub() as server:
        server.refused = "acme/demo-M_0"
        result = push(server, run, "--public")
    assert result.returncode == 2
    assert "the hub does not take acme/demo-M_0" in result.stderr
    assert "give the same command again" in result.stderr
    assert TOKEN not in result.stdout + result.stderr
    assert server.created[0]["visibility"] == "public"


def test_push_without_an_owner_is_refused(run):
    result = RUNNER.invoke(app, ["push", str(run)])
    assert result.exit_code == 2
    assert "give --to" in result.stderr


def test_push_without_a_token_is_refused_before_any_work(run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run / "no-token"))
    result = RUNNER.invoke(app, ["push", str(run), "--to", "acme"])
    assert result.exit_code == 2
    assert "no token for the hub" in result.stderr
    assert not (run / "report").exists()
