"""The command line on mistakes and on bugs: one line, and an exit code that says whose it is."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import typer
from ray.util.annotations import RayDeprecationWarning
from typer.testing import CliRunner

from humpback_ray import storage
from humpback_ray.cli import app
from humpback_ray.cluster import connect
from humpback_ray.errors import UserError
from humpback_ray.execution import logs
from humpback_ray.terminal.explained import explained

RUNNER = CliRunner()
UNREACHABLE = "ftp://127.0.0.1:9/run"  # refuses at once, without retries


@pytest.fixture(autouse=True)
def no_log_left():
    yield
    logs.close_run_log()


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text("# A header\n\n" + "A sentence about a thing of its own. " * 30)
    return folder


def run(tmp_path, *overrides: str, recipe: str = "tiny", folder: str | None = None):
    arguments = ["run", recipe, "--run", folder or str(tmp_path / "run")]
    for override in overrides:
        arguments += ["--set", override]
    return RUNNER.invoke(app, arguments)


def mistake(result) -> str:
    """The one line of an error, with the exit code checked."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("error: ")


def test_labels_for_two_runs_are_refused_in_one_line(tmp_path):
    arguments = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--labels", "labels.jsonl"]
    assert mistake(RUNNER.invoke(app, arguments)).startswith(
        "labels and a parser belong to one run"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.selection.k=6", "settings.selection.k"),
        ("settings.slection.k=4", "did you mean 'selection'?"),
        ("settings.iterations=two", "settings.iterations"),
        ("settings.seed.path=/no/seed.jsonl", "set settings.seed.path"),
        ("settings.corpus.path=/no/corpus", "nothing at '/no/corpus'"),
        ("settings.base={model: /no/model}", "no model folder /no/model"),
        ("settings.base={model: ./no/model}", "no model folder ./no/model"),
        ("settings.base={kind: gguf, file: /no/model.gguf}", "no GGUF file /no/model.gguf"),
        ("settings.base={kind: gguf, file: package:no-model/a.gguf}", "install --no-deps no-model"),
        ("settings.prompts.rating_template=/no/template", "set settings.prompts.rating_template"),
        ("settings.evaluation.prompts=/no/prompts.json", "set settings.evaluation.prompts"),
    ],
)
def test_recipe_mistakes_are_one_line_each(tmp_path, override, message):
    assert message in mistake(run(tmp_path, override))
    assert not (tmp_path / "run").exists()


def test_unknown_recipe_is_a_user_error(tmp_path):
    assert "did you mean 'tiny'?" in mistake(run(tmp_path, recipe="tinny"))


def test_unknown_stage_is_a_user_error(tmp_path):
    result = RUNNER.invoke(app, ["run", "tiny", "--run", str(tmp_path / "run"), "--until", "ratde"])
    assert "the stages are seed, segments" in mistake(result)


def test_run_folder_without_rights_is_a_user_error(tmp_path):
    assert "cannot write to" in mistake(run(tmp_path, folder="/dev/null/run"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "nothing answers at 127.0.0.1:9"),
        ("http://127.0.0.1:8265", "humpback submit --address http://127.0.0.1:8265"),
    ],
)
def test_missing_cluster_is_a_user_error(address, message, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests have started one
    assert message in mistake(RUNNER.invoke(app, ["doctor", "tiny"]))


def test_empty_corpus_is_a_user_error(tmp_path):
    (tmp_path / "corpus").mkdir()
    message = mistake(run(tmp_path, f"settings.corpus.path={tmp_path}/corpus"))
    assert "nothing at" in message or "no file to read" in message
    (tmp_path / "corpus" / "picture.png").touch()
    assert "1 other files" in mistake(run(tmp_path, f"settings.corpus.path={tmp_path}/corpus"))


def test_rating_template_without_its_fields_is_a_user_error(tmp_path):
    (tmp_path / "template.txt").write_text("Rate $response. $answer_format")
    override = f"settings.prompts.rating_template={tmp_path}/template.txt"
    assert "the placeholder $instruction is missing" in mistake(run(tmp_path, override))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_seed_file_of_another_format_leaves_nothing_behind(tmp_path, corpus):
    (tmp_path / "seed.jsonl").write_text(json.dumps({"asked": "x", "told": "y"}) + "\n")
    overrides = [f"settings.seed.path={tmp_path}/seed.jsonl", f"settings.corpus.path={corpus}"]
    refusal = mistake(run(tmp_path, *overrides))
    assert "line 1 has the keys 'asked', 'told': it must hold" in refusal
    assert not (tmp_path / "run" / "seed").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_corpus_without_survivors_shows_reasons_and_can_be_changed(tmp_path, corpus):
    override = f"settings.corpus.path={corpus}"
    (corpus / "b.md").write_text("# SHOUTING\n\ntext\n")
    short = run(tmp_path, override, "settings.corpus.min_characters=2900")
    assert "1 too_short, 1 uppercase_header" in mistake(short)
    assert not (tmp_path / "run" / "segments").exists()
    (corpus / "c.md").write_text("".join(f"# Header {n}\n\n" + words(n) for n in range(3)))
    arguments = ["run", "tiny", "--run", str(tmp_path / "run"), "--set", override]
    mended = RUNNER.invoke(app, [*arguments, "--until", "segments"])
    assert mended.exit_code == 0, mended.output
    assert "3 kept" in mended.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_too_many_workers_are_refused_before_any_stage(tmp_path, corpus):
    overrides = [f"settings.corpus.path={corpus}", "placement.training.cpus_per_worker=5"]
    message = mistake(run(tmp_path, *overrides))
    assert "no room for 2 training workers" in message
    assert "1 x (CPU 8), room for 1" in message
    assert not (tmp_path / "run" / "seed").exists()
    (line,) = (tmp_path / "run/attempts/001/run.log").read_text().splitlines()
    assert "no room for 2 training workers" in json.loads(line)["exception"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_doctor_command_reports_missing_parts(tmp_path, corpus):
    command = ["doctor", "tiny", "--run", str(tmp_path / "run"), "--set",
               f"settings.corpus.path={corpus}"]  # fmt: skip
    healthy = RUNNER.invoke(app, command)
    assert healthy.exit_code == 0, healthy.output
    assert "missing: nothing" in healthy.stdout
    ill = RUNNER.invoke(app, [*command, "--set", "placement.training.cpus_per_worker=5", "--json"])
    assert ill.exit_code == 2, ill.output
    missing = [each for each in json.loads(ill.stdout) if each["verdict"] == "missing"]
    assert [(each["check"], each["found"]) for each in missing] == [
        ("training workers", "room for 1: 1 x (CPU 8)")
    ]
    assert list(tmp_path.iterdir()) == [corpus]


def words(number: int) -> str:
    """A text that repeats neither itself nor the text of another number."""
    sentences = [
        " ".join(f"w{number}x{sentence * 12 + word}" for word in range(12))
        for sentence in range(12)
    ]
    return ". ".join(sentences) + ".\n\n"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_parquet_corpus_without_the_text_column_is_named(tmp_path, corpus):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"page": ["x"]}), corpus / "rows.parquet")
    message = mistake(run(tmp_path, f"settings.corpus.path={corpus}"))
    assert message.endswith(
        "or 'raw_content'; it has page: set settings.corpus.text_column or url_column"
    )


def test_look_at_a_missing_stage_is_a_user_error(tmp_path):
    assert "no rows in" in mistake(RUNNER.invoke(app, ["look", str(tmp_path / "run/candidates")]))
    assert "no run in" in mistake(RUNNER.invoke(app, ["status", str(tmp_path)]))
    assert "no finished model in" in mistake(RUNNER.invoke(app, ["chat", str(tmp_path)]))


def test_plan_needs_no_cluster_and_writes_nothing(tmp_path, corpus):
    result = RUNNER.invoke(
        app, ["plan", "tiny", "--run", str(tmp_path / "run"), "--set",
              f"settings.corpus.path={corpus}"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count("to do") == 20
    assert not (tmp_path / "run").exists()


def test_run_shows_no_deprecation_warnings_of_ray():
    with warnings.catch_warnings(record=True) as said:
        connect._quieten()
        warnings.warn("it goes with Ray 2.64", RayDeprecationWarning, stacklevel=1)
    assert not said


# --- errors, by whose they are --------------------------------------------------------------------


def outcome(command: Callable[[], object]) -> tuple[int, str]:
    """Exit code of a command, and its one line on stderr."""
    one_command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    one_command.command()(explained(lambda: command()))
    result = RUNNER.invoke(one_command, [])
    (line,) = result.stderr.strip().splitlines()
    return result.exit_code, line


def traceback_at(line: str) -> str:
    """The traceback that the line of an unexpected error points to."""
    (path,) = re.findall(r"; the traceback is in (.+)$", line)
    return Path(path).read_text()


def refuse() -> None:
    raise UserError("settings.x=1\nis below 2: raise it")


def stop() -> None:
    raise KeyboardInterrupt


BUGS = [
    (lambda: int("x"), "ValueError: invalid literal for int"),
    (lambda: pa.array([1, "a"], pa.int64()), "ArrowInvalid: "),
    (lambda: Path("/no/file").read_text(), "FileNotFoundError: "),
    (lambda: {}["key"], "KeyError: 'key'"),
]


def test_user_error_is_one_line_and_exit_code_2():
    assert outcome(refuse) == (2, "error: settings.x=1 is below 2: raise it")


def test_ctrl_c_is_exit_code_130():
    assert outcome(stop)[0] == 130


def test_bad_parameter_that_a_command_finds_is_one_line_and_exits_2():
    def command() -> None:
        raise typer.BadParameter("so many [rows]\ndo not exist")

    assert outcome(command) == (2, "error: so many [rows] do not exist")


@pytest.mark.parametrize(("bug", "text"), BUGS)
def test_bug_outside_of_a_run_exits_1_with_its_traceback_in_a_file(
    bug, text, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, line = outcome(bug)
    assert code == 1
    assert line.startswith(f"unexpected error: {text}")
    assert str(tmp_path) in line
    assert text in traceback_at(line)
    assert "test_cli.py" in traceback_at(line)


@pytest.mark.parametrize(("bug", "text"), BUGS)
def test_bug_in_a_run_exits_1_with_its_traceback_in_the_runs_log(bug, text, tmp_path):
    log = tmp_path / "run.log"

    def command() -> None:
        logs.log_to(str(log), "tiny", 1)
        with logs.end_logged():
            bug()

    code, line = outcome(command)
    assert code == 1
    assert line.endswith(f"; the traceback is in {log}")
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert text in entry["exception"]


def test_look_at_a_damaged_file_exits_2_with_one_line(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "part-0.parquet").write_text("not Parquet")
    result = RUNNER.invoke(app, ["look", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: a file in {tmp_path} is no Parquet: ")
    assert result.stderr.count("\n") == 1


def test_status_of_a_damaged_record_names_it_beside_the_other_stages(tmp_path):
    storage.write_json(f"{tmp_path}/attempts/001/attempt.json", {"stages": ["seed"]})
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "record.json").write_text("{")
    result = RUNNER.invoke(app, ["status", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    (stage,) = json.loads(result.stdout)["stages"]
    assert stage["state"] == "unreadable"
    assert f"{tmp_path}/seed/record.json is damaged" in stage["problem"]


@pytest.mark.parametrize(
    "command",
    [
        ["status", UNREACHABLE],
        ["look", f"{UNREACHABLE}/seed"],
        ["chat", UNREACHABLE],
        ["probe", UNREACHABLE],
        ["plan", "tiny", "--run", UNREACHABLE],
        ["estimate", "llama-7b", "--hardware", "8xH100", "--run", UNREACHABLE],
    ],
)
def test_unreachable_run_folder_is_a_user_error(command, corpus, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    overrides = ["--set", f"settings.corpus.path={corpus}"] if "--run" in command else []
    line = mistake(RUNNER.invoke(app, [*command, *overrides]))
    assert line.startswith(UNREACHABLE)
    assert "cannot be read or written from here: " in line
    assert "refused" in line


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("where", ["task", "actor", "rows", "batches"])
@pytest.mark.parametrize("is_ours", [False, True], ids=["mistake", "bug"])
def test_user_error_in_a_ray_task_has_the_same_line(where, is_ours):
    def fail(row: object = None) -> object:
        raise ValueError("a bug") if is_ours else UserError("no column 'text': set text_column")

    def fail_late(row: object) -> object:
        yield row
        fail()

    class Failing:
        def fail(self) -> None:
            fail()

    data = ray.data.range(4, override_num_blocks=1)
    commands = {
        "task": lambda: ray.get(ray.remote(fail).remote()),
        "actor": lambda: ray.get(ray.remote(Failing).remote().fail.remote()),
        "rows": data.flat_map(fail_late).materialize,
        "batches": data.map_batches(fail).materialize,
    }
    connect._quieten()
    code, line = outcome(commands[where])
    if is_ours:
        assert code == 1
        assert line.startswith("unexpected error: ")
        assert "a bug" in traceback_at(line)
    else:
        assert (code, line) == (2, "error: no column 'text': set text_column")


# --- plan and estimate ----------------------------------------------------------------------------


def test_plan_with_hardware_names_the_estimate(tmp_path):
    result = RUNNER.invoke(
        app, ["plan", "tiny", "--run", str(tmp_path / "run"), "--hardware", "8xH100"]
    )
    assert result.exit_code == 2, result.output
    assert "`humpback estimate RECIPE --hardware 8xH100`" in result.stderr
    assert "--hardware" not in RUNNER.invoke(app, ["plan", "--help"]).stdout


def test_estimate_without_hardware_is_refused():
    result = RUNNER.invoke(app, ["estimate", "tiny", "--price", "2.5"])
    assert result.exit_code == 2, result.output
    assert "Missing option '--hardware'" in result.stderr


# --- prompts --------------------------------------------------------------------------------------


def test_prompts_writes_one_file_and_names_what_is_missing(tmp_path):
    (tmp_path / "sets").mkdir()
    lines = '{"text": "Name a fruit."}\n{"text": "name a  fruit."}\n{"text": "Why?"}\n'
    (tmp_path / "sets/vicuna.jsonl").write_text(lines)
    target = tmp_path / "prompts.json"
    result = RUNNER.invoke(app, ["prompts", str(tmp_path / "sets"), str(target)])
    assert result.exit_code == 0, result.output
    assert json.loads(target.read_text()) == [
        {"dataset": "vicuna", "instruction": "Name a fruit."},
        {"dataset": "vicuna", "instruction": "Why?"},
    ]
    assert "missing: LIMA: no file lima.json or .jsonl" in result.output
    command = ["prompts", str(tmp_path / "sets"), str(target), "--development", "1"]
    assert "no alpaca_eval.json" in mistake(RUNNER.invoke(app, command))
    assert "no file of prompts in" in mistake(
        RUNNER.invoke(app, ["prompts", str(tmp_path / "none"), str(target)])
    )
