"""Submitting to a cluster: what travels, what is refused, and before anything is sent."""

from __future__ import annotations

import json
import platform
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobDetails
from typer.testing import CliRunner

from humpback_ray.cli import app
from humpback_ray.cluster import jobs
from humpback_ray.cluster.submission import Submission, prepare, refuse_credentials
from humpback_ray.config.recipe import load_recipe, recipe_names

RUNNER = CliRunner()
RUN = "s3://bucket/runs/mine"


@pytest.fixture
def here(tmp_path, monkeypatch, seed_file) -> Path:
    """A folder with a recipe of the user's own and, beside it, what it names."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that what a command sets is undone
        monkeypatch.delenv(name)
    text = (seed_file.parent / "tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        text.replace("name: tiny", "name: mine")
        .replace("tiny_seed.jsonl", "'my seed: 1.jsonl'")
        .replace("installed-packages", "corpus")
        .replace("tiny_prompts.json", "prompts.json")
    )
    (tmp_path / "my seed: 1.jsonl").write_text(seed_file.read_text())
    (tmp_path / "prompts.json").write_text((seed_file.parent / "tiny_prompts.json").read_text())
    for name in ("a.md", "venv/b.md"):  # Ray would leave a folder of this name out
        (tmp_path / "corpus" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "corpus" / name).write_text(f"# {name}\n\nA text.\n")
    return tmp_path


def prepared(folder: Path, recipe: str, *overrides: str, run: str = RUN) -> Submission:
    loaded = load_recipe(recipe, list(overrides))
    return prepare(recipe, loaded, run, str(folder), overrides=list(overrides))


def arguments(submission: Submission) -> tuple[str, list[str]]:
    """The recipe and the overrides of a job's command."""
    python, script, recipe, *rest = shlex.split(submission.entrypoint)
    assert (python, script) == ("python", "jobs/run_pipeline.py")
    return recipe, [after for word, after in pairwise(rest) if word == "--set"]


def fingerprints(recipe: str, overrides: list[str]) -> dict[str, str]:
    from humpback_ray import pipeline

    loaded = load_recipe(recipe, overrides)
    return {stage.path: stage.fingerprint for stage in pipeline.stages_of(loaded)}


def test_submission_of_a_shipped_recipe_is_the_typed_command(tmp_path):
    loaded = load_recipe("tiny")
    submission = prepare(
        "tiny", loaded, RUN, str(tmp_path), until="seed", overrides=["settings.random_seed=0"]
    )
    assert submission.entrypoint == (
        f"python jobs/run_pipeline.py tiny --run {RUN} --until seed --set settings.random_seed=0"
    )
    assert submission.metadata["humpback_run"] == RUN
    assert submission.runtime_env["env_vars"]["PYTHONUNBUFFERED"] == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"humpback_ray", "jobs"}
    assert not list(tmp_path.rglob("__pycache__"))


def test_submission_is_the_same_run_at_the_other_end(here, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("packed")
    override = "settings.augmentation.max_tokens=9"
    submission = prepared(folder, "mine.yaml", override)
    before = fingerprints("mine.yaml", [override])
    assert len(before) == 20
    elsewhere = here.rename(here.with_name("gone"))
    assert elsewhere.exists()
    monkeypatch.chdir(folder)
    recipe, overrides = arguments(submission)
    assert fingerprints(recipe, overrides) == before
    assert override in overrides
    assert (folder / "submitted/corpus.path/venv/b.md").exists()


def test_task_files_of_benchmarks_travel_with_their_data(here, tmp_path_factory, monkeypatch):
    (here / "tasks").mkdir()
    for name in ("tides.yaml", "_default_yaml", "utils.py", "tides.jsonl"):
        (here / "tasks" / name).write_text("{}\n")
    folder = tmp_path_factory.mktemp("packed")
    override = "settings.evaluation.benchmarks.task_files=tasks"
    submission = prepared(folder, "mine.yaml", override)
    before = fingerprints("mine.yaml", [override])
    monkeypatch.chdir(folder)
    recipe, overrides = arguments(submission)
    assert fingerprints(recipe, overrides) == before
    packed = folder / "submitted/evaluation.benchmarks.task_files"
    assert len(list(packed.iterdir())) == 4


def test_recipe_that_extends_others_travels_resolved(here, tmp_path_factory, monkeypatch):
    (here / "below").mkdir()
    (here / "below/child.yaml").write_text(
        "extends: ../mine.yaml\nname: child\nsettings: {augmentation: {max_tokens: 7}}\n"
    )
    (here / "own.yaml").write_text("extends: tiny\nname: own\nsettings: {corpus: {path: corpus}}\n")
    for name in ("below/child.yaml", "own.yaml"):
        folder = tmp_path_factory.mktemp("packed")
        submission = prepared(folder, name)
        before = fingerprints(name, [])
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(folder)
            recipe, overrides = arguments(submission)
            assert fingerprints(recipe, overrides) == before
            assert "extends" not in Path(recipe).read_text()
            assert str(here) not in Path(recipe).read_text()
            assert "/humpback_ray/recipes" not in Path(recipe).read_text()


def test_submission_changes_with_a_parent_of_its_recipe(here, tmp_path_factory):
    (here / "child.yaml").write_text("extends: mine.yaml\nname: child\n")
    before = prepared(tmp_path_factory.mktemp("packed"), "child.yaml").settings
    parent = here / "mine.yaml"
    parent.write_text(parent.read_text().replace("num_steps: 24", "num_steps: 25"))
    assert prepared(tmp_path_factory.mktemp("packed"), "child.yaml").settings != before


def test_submission_leaves_paths_of_the_cluster_unchanged(here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    overrides = ["settings.corpus.path=/of/the/cluster", "settings.base={model: /models/7b}"]
    submission = prepared(folder, "mine.yaml", *overrides)
    assert [note.split(" is ")[0] for note in submission.notes] == [
        "settings.base.model=/models/7b",
        "settings.corpus.path=/of/the/cluster",
    ]
    assert arguments(submission)[1][:2] == overrides


def test_submission_leaves_datasets_unchanged_and_says_who_must_reach_them(here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    overrides = ["settings.corpus.path=dataset:///data/set", "settings.seed.path=dataset://o/n"]
    submission = prepared(folder, "mine.yaml", *overrides)
    assert arguments(submission)[1][:2] == overrides
    assert [note.partition(" is ")[2] for note in submission.notes if "dataset" in note] == [
        "not packed: every node must reach the hub, or have it in its cache",
        "not packed: every node must reach that folder",
    ]


def test_list_of_places_travels_as_one_folder_with_the_names_of_the_whole_list(
    here, tmp_path_factory, monkeypatch
):
    for name in ("wiki/part.md", "books [1]/part.md"):
        (here / name).parent.mkdir()
        (here / name).write_text(f"# {name}")
    (here / "link").symlink_to("wiki")
    dataset = f"dataset://{here}/set?split=train"
    for places in (["wiki", "books [1]/*.md", "link"], ["wiki", dataset, "books [1]"]):
        if dataset in places:
            (here / "set").mkdir()
            (here / "set/train.jsonl").write_text('{"text": "x"}')
        folder = tmp_path_factory.mktemp("packed")
        override = f"settings.corpus.path={json.dumps(places)}"
        submission = prepared(folder, "mine.yaml", override)
        before = fingerprints("mine.yaml", [override])
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(folder)
            recipe, overrides = arguments(submission)
            assert fingerprints(recipe, overrides) == before
            assert fingerprints(recipe, overrides[1:]) == before
        packed = folder / "submitted/corpus.path"
        assert sorted(str(file.relative_to(packed)) for file in packed.rglob("*.md")) == [
            "books [1]/part.md", "wiki/part.md",
        ]  # fmt: skip


def test_list_of_files_travels_in_its_order(here, tmp_path_factory, monkeypatch):
    pairs = ['{"instruction": "One?", "output": "1"}\n', '{"instruction": "Two?", "output": "2"}\n']
    for name, text in zip(("b/seed.jsonl", "a/seed.jsonl"), pairs, strict=True):
        (here / name).parent.mkdir()
        (here / name).write_text(text)
    places = ["b/seed.jsonl", "dataset://o/n", "a/seed.jsonl"]
    folder = tmp_path_factory.mktemp("packed")
    override = f"settings.seed.path={json.dumps(places)}"
    submission = prepared(folder, "mine.yaml", override)
    before = fingerprints("mine.yaml", [override])
    monkeypatch.chdir(folder)
    recipe, overrides = arguments(submission)
    assert fingerprints(recipe, overrides) == fingerprints(recipe, overrides[1:]) == before
    first, dataset, second = load_recipe(recipe, overrides).settings.seed.path
    assert [Path(place).read_text() for place in (first, second)] == pairs
    assert dataset == "dataset://o/n"


def test_list_with_a_url_is_not_packed(here, tmp_path_factory):
    place = json.dumps(["s3://bucket/web", str(here / "corpus")])
    folder = tmp_path_factory.mktemp("packed")
    submission = prepared(folder, "mine.yaml", f"settings.corpus.path={place}")
    assert [note for note in submission.notes if "corpus" in note] == [
        f"settings.corpus.path={here}/corpus is not packed: every node must see it there"
    ]
    place = json.dumps(["s3://bucket/web", "corpus"])
    with pytest.raises(ValueError, match=r"settings\.corpus\.path=corpus cannot travel"):
        prepared(tmp_path_factory.mktemp("p"), "mine.yaml", f"settings.corpus.path={place}")


def test_submission_has_equal_settings_only_if_it_is_the_same(here, tmp_path_factory):
    def settings(*overrides: str) -> str:
        return prepared(tmp_path_factory.mktemp("packed"), "mine.yaml", *overrides).settings

    assert settings() == settings()
    assert settings() != settings("settings.random_seed=1")
    recipe = here / "mine.yaml"
    before = settings()
    recipe.write_text(recipe.read_text().replace("num_steps: 24", "num_steps: 25"))
    assert settings() != before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.seed.path=not/here.jsonl", "not a file that can be packed"),
        ("settings.seed.path=large.jsonl", "60 MiB; 50 MiB in all can"),
        ("settings.base={model: ./model}", "settings.base.model=./model cannot travel"),
        ("placement.cluster.address=auto", "joins the cluster that it is submitted to"),
    ],
)
def test_submission_names_files_that_cannot_travel(here, tmp_path_factory, override, message):
    with open("large.jsonl", "wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path_factory.mktemp("packed"), "mine.yaml", override)


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:dontshow@bucket/runs",
        "https://host/seed.jsonl?X-Amz-Signature=dontshow",
        "https://host/seed.jsonl?sig=dontshow",
        "AKIADONTSHOWDONTSHOW",
        "hf_dontshowdontshowdontshow",
        "RAY_AUTH_TOKEN=dontshow",
    ],
)
def test_credentials_in_a_submission_are_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="--run looks like it holds a credential") as refused:
        refuse_credentials({"--run": text})
    assert "dontshow" not in str(refused.value).lower()


@pytest.mark.parametrize("where", ["run", "set", "recipe"])
def test_credential_anywhere_in_a_submission_is_refused(here, tmp_path_factory, where):
    secret, run, overrides = "s3://key:dontshow@bucket/a", RUN, []
    if where == "run":
        run = secret
    elif where == "set":
        overrides = [f"settings.seed.path={secret}"]
    else:
        recipe = here / "mine.yaml"
        recipe.write_text(f"# {secret}\n{recipe.read_text()}")
    with pytest.raises(ValueError, match="credential") as refused:
        prepared(tmp_path_factory.mktemp("packed"), "mine.yaml", *overrides, run=run)
    assert "dontshow" not in str(refused.value)


def test_ordinary_texts_are_not_taken_for_credentials(tmp_path_factory):
    for name in recipe_names():
        changed = [
            f"settings.{key}=abfs://container@account.dfs.core.windows.net/max-tokens=5/x"
            for key in ("seed.path", "corpus.path", "evaluation.prompts")
        ]
        folder = tmp_path_factory.mktemp("packed")
        assert prepared(folder, name, "settings.augmentation.max_tokens=9", *changed)


# --- which job is which --------------------------------------------------------------------------


def job(entrypoint: str, name: str | None = None, **metadata: str) -> JobDetails:
    return JobDetails(
        type="SUBMISSION", status="RUNNING", entrypoint=entrypoint, submission_id=name,
        metadata=metadata,
    )  # fmt: skip


def test_job_ids_are_numbered_by_run():
    first = jobs.submission_id(RUN, [])
    assert first.startswith("humpback-mine-")
    assert first.endswith("-1")
    later = [job("", f"{first[:-1]}{number}") for number in (2, 10, 9)] + [job("", "raysubmit_5")]
    assert jobs.submission_id(RUN, later) == f"{first[:-1]}11"
    assert jobs.submission_id("s3://other/runs/mine", later) != first


@pytest.mark.parametrize(
    ("found", "run"),
    [
        (job("anything", humpback_run=RUN), RUN),
        (job(f"python jobs/run_pipeline.py tiny --run {RUN}/"), RUN),
        (job("python jobs/part.py rate tiny --run='/a b'"), "/a b"),
        (job(f"humpback run tiny --set a.b=c --run={RUN}"), RUN),
        (job(f"python train.py --run {RUN}"), None),
        (job("python jobs/run_pipeline.py tiny"), None),
        (job("echo 'unfinished"), None),
        (job("humpback run tiny --run"), None),
    ],
)
def test_run_of_a_job_is_found_for_any_submitter(found, run):
    assert jobs.run_of(found) == run


# --- what answers --------------------------------------------------------------------------------


class Dashboard(BaseHTTPRequestHandler):
    """Answers as the dashboard of a cluster on other machines, with other versions, would."""

    versions = (ray.__version__, platform.python_version())

    def do_GET(self) -> None:
        version, python = self.versions
        content = {
            "/api/version": {"ray_version": version},
            "/api/v0/cluster_metadata": {"data": {"rayVersion": version, "pythonVersion": python}},
            "/nodes?view=hostNameList": {"data": {"hostNameList": ["elsewhere"]}},
        }[self.path]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def mistake(*command: str) -> str:
    """The one line of an error, with the exit code checked."""
    result = RUNNER.invoke(app, list(command))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


COMMANDS = [("submit", "tiny"), ("logs", RUN), ("stop", RUN), ("status", RUN)]


@pytest.mark.parametrize("command", COMMANDS)
def test_address_that_does_not_answer_is_a_user_error(here, command):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = mistake(*command, "--address", address)
    assert f"nothing answers at {address}" in line


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_server_that_is_no_dashboard_is_a_user_error(here):
    with server(Silent) as address:
        assert "is not a Ray dashboard" in mistake("submit", "tiny", "--address", address)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        (("2.55.1", "3.11.7"), f"runs Ray 2.55.1 and this machine {ray.__version__}"),
        ((ray.__version__, "3.9.1"), "runs Python 3.9.1 and this machine 3."),
    ],
)
def test_other_version_on_the_cluster_is_a_user_error(here, versions, message):
    handler = type("Other", (Dashboard,), {"versions": versions})
    with server(handler) as address:
        assert message in mistake("submit", "tiny", "--address", address)


@pytest.mark.parametrize("run", [[], ["--run", "runs/mine"]])
def test_relative_run_folder_for_a_remote_cluster_is_refused(here, run):
    with server(Dashboard) as address:
        line = mistake("submit", "tiny", *run, "--address", address)
    assert "is relative to this machine, and the cluster is elsewhere" in line


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "no cluster is named"),
        ("127.0.0.1:8265", "is not the address of a dashboard"),
        ("ray://head:10001", "is not the address of a dashboard"),
        ("http://user:dontshow@head:8265", "--address looks like it holds a credential"),
    ],
)
def test_bad_dashboard_addresses_are_user_errors(here, address, message):
    line = mistake("submit", "tiny", *(["--address", address] if address else []))
    assert message in line
    assert "dontshow" not in line


def test_dashboard_address_comes_from_rays_variables(monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match="no cluster is named"):
        jobs.address_of(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert jobs.address_of(None) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://other:8265")
    assert jobs.address_of(None) == "https://other:8265"
    assert jobs.address_of("http://given:8265") == "http://given:8265"


def test_recipe_mistake_is_reported_before_the_address(here):
    assert "did you mean 'selection'" in mistake(
        "submit", "tiny", "--set", "settings.slection.k=4", "--address", "http://127.0.0.1:1"
    )
