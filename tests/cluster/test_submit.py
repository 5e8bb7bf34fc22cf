"""Runs as jobs on a real cluster: several raylets, the real dashboard, token authentication."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from benchmarks.raylets import free_port
from tests.support.pipeline import OVERRIDES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TOKEN = secrets.token_hex(32)


def environment(**variables: str) -> dict[str, str]:
    """Environment of a started process, without the test session's cluster settings."""
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("RAY_", "PYTHONPATH"))
    }  # fmt: skip
    return {
        **kept, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": tempfile.gettempdir(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables,
    }  # fmt: skip


WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@dataclass
class Processes:
    """A head and nodes of a cluster; `ray start --block` keeps each one's processes below it."""

    folder: str
    started: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *arguments: str) -> None:
        """Start a node, and wait until it has joined."""
        log = Path(self.folder, f"start-{len(self.started)}.log")
        command = ["ray", "start", "--block", "--num-cpus=4", "--object-store-memory=150000000"]
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    *command, "--min-worker-port=0", "--max-worker-port=0",
                    # Without its own port the agent of another cluster here keeps jobs from coming.
                    f"--dashboard-agent-listen-port={free_port()}",
                    # Nor one folder for all: each agent unpacks a job's files anew, below the job.
                    f"--temp-dir={self.folder}/{len(self.started)}", *arguments,
                ],
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                # Without the package, because the job brings it.
                env=environment(**WITH_TOKEN, PYTHONPATH=""),
            )  # fmt: skip
        self.started.append(process)
        wait_until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()

    def end(self) -> None:
        """End every process below these, by its id."""
        found = [psutil.Process(each.pid) for each in self.started if each.poll() is None]
        found += [child for each in found for child in each.children(recursive=True)]
        for process in found:
            try:
                process.terminate()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(found, timeout=15)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=15)


def wait_until(is_so, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.2)


@dataclass(frozen=True)
class Addresses:
    dashboard: str
    gcs: str
    client: str


@pytest.fixture(scope="module")
def cluster() -> Iterator[Addresses]:
    """Three raylets, one of them on the head, with the token on."""
    gcs, dashboard, client = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="hs-", dir="/tmp") as folder:
        processes = Processes(folder)
        try:
            processes.start(
                "--head", f"--port={gcs}", f"--dashboard-port={dashboard}",
                "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}",
            )  # fmt: skip
            for number in (2, 3):
                address = f"127.0.0.{number}"
                processes.start(f"--address=127.0.0.1:{gcs}", f"--node-ip-address={address}")
            host = re.search(r"address='([\d.]+):", Path(folder, "start-0.log").read_text())
            assert host
            yield Addresses(
                f"http://127.0.0.1:{dashboard}", f"{host[1]}:{gcs}", f"ray://{host[1]}:{client}"
            )
        finally:
            processes.end()


def start(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start the command line in a separate process, as a user would."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "humpback_ray.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
        env=environment(**(variables or WITH_TOKEN)),
    )  # fmt: skip


def humpback(*arguments: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str]:
    """The exit code and the output of a command."""
    process = start(*arguments, cwd=cwd, **variables)
    output, _ = process.communicate(timeout=800)
    return process.returncode, output


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Output of a process, up to a line with the text."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.fixture
def texts(tmp_path) -> Path:
    """A folder with a small corpus, named relative to it by what is submitted from there."""
    (tmp_path / "corpus").mkdir()
    for page in range(3):
        words = [" ".join(f"w{page}x{s * 12 + w}" for w in range(12)) for s in range(12)]
        (tmp_path / "corpus" / f"{page}.md").write_text(f"# Page {page}\n\n{'. '.join(words)}.\n")
    return tmp_path


TEXTS = ["--set", "settings.corpus.path=corpus"]


@pytest.mark.long
def test_failed_job_shows_its_last_lines(cluster, texts):
    run = str(texts / "run")
    where = ["--address", cluster.dashboard]
    code, output = humpback(
        "submit", "tiny", "--run", run, "--until", "ratde", *TEXTS, *where, cwd=texts
    )
    assert code == 2, output
    assert "the stages are seed, segments" in output
    assert "FAILED" in output.splitlines()[-1]
    code, output = humpback("logs", run, *where)
    assert code == 2
    assert "the stages are seed, segments" in output
    code, output = humpback("status", run, *where, "--json")
    assert code == 0
    job = json.loads(output)["job"]
    assert (job["status"], job["exit_code"]) == ("FAILED", 2)
    assert any("the stages are seed, segments" in line for line in job["last_lines"])
    code, output = humpback("logs", "s3://bucket/no/such/run", *where)
    assert code == 2
    assert f"no run s3://bucket/no/such/run was submitted to {where[1]}: it knows " in output
    assert run in output


class Gate:
    """A seed file on a server that answers only while it is open."""

    def __init__(self, folder: Path, shut_when: Path) -> None:
        gate, self.opened = self, threading.Event()

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                if shut_when.exists():
                    gate.opened.wait(300)
                super().do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.mark.long
def test_submitted_run_can_be_left_rejoined_stopped_and_resumed(cluster, texts, seed_file):
    run = texts / "run"
    (texts / "seed.jsonl").write_text(seed_file.read_text())
    gate = Gate(texts, shut_when=run / "attempts")
    where = ["--address", cluster.dashboard]
    submit = [
        "submit", "tiny", "--run", str(run), *TEXTS, *where, "--until", "segments",
        "--set", f"settings.seed.path={gate.url}/seed.jsonl",
    ]  # fmt: skip

    first, second = start(*submit, cwd=texts), start(*submit, "--no-wait", cwd=texts)
    both = read_until(first, "seed: starting") + second.communicate(timeout=60)[0]
    assert (both.count("submitted as"), both.count("running already as")) == (1, 1)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert f"humpback logs {run} --address {where[1]}" in output

    code, output = humpback("status", str(run), *where, "--json")
    found = json.loads(output)
    assert found["job"]["status"] == "RUNNING"
    assert found["state"] == "running"
    assert [(s["stage"], s["state"]) for s in found["stages"][:2]] == [
        ("seed", "running"), ("segments", "to do")
    ]  # fmt: skip
    assert len(found["stages"]) == 20

    code, output = humpback(*submit, "--set", "settings.random_seed=7", cwd=texts)
    assert code == 2
    assert "is running as" in output
    assert "with other settings" in output

    again = start("logs", str(run), *where)
    assert "Running entrypoint" in read_until(again, "seed: starting")
    code, output = humpback("stop", str(run), *where)
    assert (code, "STOPPED" in output) == (0, True)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 130  # the log ends with the job

    gate.opened.set()
    code, output = humpback(*submit, cwd=texts)
    assert code == 0, output
    assert "segments: " in output
    assert output.strip().endswith("-2: SUCCEEDED")
    assert (run / "segments/record.json").exists()
    found = json.loads(humpback("status", str(run), "--json")[1])
    assert found["attempt"] == 2
    assert [s["state"] for s in found["stages"][:3]] == ["done", "done", "to do"]
    gate.server.shutdown()


@pytest.mark.long
def test_dashboard_without_the_token_refuses_every_command(cluster, tmp_path):
    where = ["--address", cluster.dashboard]
    run = str(tmp_path / "run")
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for variables, message in (
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
        ({"RAY_AUTH_MODE": "token"}, "asks for a token"),
        (wrong, "refuses this token"),
    ):
        commands = [["submit", "tiny", "--run", run], ["logs", run], ["stop", run]]
        for command in commands if variables is wrong else commands[:1]:
            code, output = humpback(*command, *where, **variables)
            assert code == 2
            (line,) = output.strip().splitlines()
            assert message in line
            assert "export RAY_AUTH_MODE=token" in line
    doors = (cluster.gcs, cluster.client)
    outside = [
        join(door, **variables)
        for door in doors
        for variables in ({"RAY_AUTH_MODE": "disabled"}, wrong)
    ]
    inside = [join(door, **WITH_TOKEN) for door in doors]
    assert [outcome(process) for process in inside] == ["joined 3 nodes"] * 2
    assert [outcome(process) for process in outside] == ["refused"] * 4


def join(address: str, **variables: str) -> subprocess.Popen[str]:
    """A driver that joins a cluster at the address of its GCS or of its client server."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.joining_driver", address], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment(**variables),
    )  # fmt: skip


def outcome(driver: subprocess.Popen[str]) -> str:
    """Output of a driver that tries to join; Ray gives up after a minute or more."""
    try:
        output, _ = driver.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        driver.kill()
        output, _ = driver.communicate()
    return output.strip() or "refused"


class Line:
    """A connection to a server that can be cut."""

    def __init__(self, address: str) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.target = (address.rpartition("/")[2].split(":")[0], int(address.rpartition(":")[2]))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        ends, self.open = self.open, []
        for end in ends:
            with suppress(OSError):  # it has ended by itself
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near = self.server.accept()[0]
            far = socket.create_connection(self.target)
            self.open += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.long
def test_lost_connection_is_remade_and_no_log_line_repeats(cluster):
    line = Line(cluster.dashboard)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.followed_job", line.url], stdout=subprocess.PIPE,
        text=True, env=environment(**WITH_TOKEN),
    )  # fmt: skip
    output = read_until(process, "line 5")
    line.cut()
    output += read_until(process, "line 20")
    line.cut()
    output += process.communicate(timeout=60)[0]
    assert process.returncode == 0
    shown = [text for text in output.splitlines() if text.startswith("line ")]
    assert shown == [f"line {number}" for number in range(1, 41)]
    assert output.endswith("SUCCEEDED\n")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_submitted_tiny_run_reaches_the_last_model(cluster, tmp_path, corpus):
    """The user leaves the run during a training, rejoins it, stops it, and submits it again."""
    run = tmp_path / "run"
    where = ["--address", cluster.dashboard]
    submit = ["submit", "tiny", "--run", str(run), *where]
    for override in [*OVERRIDES, f"settings.corpus.path={corpus}"]:
        submit += ["--set", override]
    first = start(*submit)
    read_until(first, "base/model: starting")
    wait_until(lambda: (run / "base/model/metrics.jsonl").exists(), 300)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    found = json.loads(humpback("status", str(run), *where, "--json")[1])
    (training,) = [s for s in found["stages"] if s["stage"] == "base/model"]
    assert training["state"] == "running"
    assert training["metrics"]["num_steps"] == 30
    assert training["metrics"]["tokens_per_second"] > 0
    assert humpback("stop", str(run), *where)[0] == 0
    steps = [json.loads(line)["step"] for line in (run / "base/model/metrics.jsonl").open()]

    code, output = humpback(*submit)
    assert code == 0, output
    assert "tiny: done" in output
    later = [json.loads(line)["step"] for line in (run / "base/model/metrics.jsonl").open()]
    assert later[len(steps)] > 1, "the checkpoint of the stop was used"
    assert (run / "iter-2/model/record.json").exists()
    found = json.loads(humpback("status", str(run), *where, "--json")[1])
    assert found["state"] == "done"
    assert found["job"]["status"] == "SUCCEEDED"
