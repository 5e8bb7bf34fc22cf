"""lm-evaluation-harness on one model, as a process of a Python interpreter that has it.

Everything here runs on the node where the process runs. Its packages need not be those of a run, so
this program imports nothing of it. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from humpback_ray import storage
from humpback_ray.config.benchmarks import BenchmarkSettings
from humpback_ray.config.placement import Placement
from humpback_ray.errors import UserError
from humpback_ray.models.local import local_folder
from humpback_ray.serving import vllm_plugin

LOG = "lm_eval.log"
RESULTS, SAMPLES = "results_", "samples_"  # the harness's files begin with these
KEY = "settings.evaluation.benchmarks"
PYTHON_KEY = "placement.benchmarks.python"
CHECK_SECONDS = 600  # it reads ten thousand task files, which takes half a minute on a busy machine
HF_BATCH_SIZE = 8
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class HarnessRun:
    """One model's benchmarks: what is asked, and how."""

    name: str  # of the model, for people
    model: str  # folder, URL or hub id
    revision: str | None
    settings: BenchmarkSettings
    task_files: str | None  # folder or URL
    context_length: int
    dtype: str
    trust_remote_code: bool
    placement: Placement
    output: str  # folder or URL for the harness's files

    @property
    def backend(self) -> str:
        """The harness's backend on the engines' device."""
        return self.placement.benchmarks.chosen_backend(self.placement.engine.device)

    @property
    def num_devices(self) -> int:
        """Devices that hold the model: one engine's with vLLM, one with transformers."""
        engine = self.placement.engine
        is_split = self.backend == "vllm"
        return engine.tensor_parallel_size * engine.pipeline_parallel_size if is_split else 1


def config_of(run: HarnessRun, model: str, task_files: str | None, output: str) -> dict[str, Any]:
    """The content of the file for `lm_eval run --config`.

    A file, because the command line takes a path with a comma or an equals sign apart.

    Args:
        model: folder on this node, or hub id.
        task_files: folder on this node.
        output: folder on this node.
    """
    engine, wanted = run.placement.engine, run.placement.benchmarks.batch_size
    is_vllm = run.backend == "vllm"
    arguments: dict[str, Any] = {"pretrained": model, "dtype": run.dtype}
    if run.revision:
        arguments["revision"] = run.revision
    if run.trust_remote_code:
        arguments["trust_remote_code"] = True
    config: dict[str, Any] = {
        "model": run.backend,
        "model_args": arguments,
        "tasks": list(run.settings.tasks),
        "num_fewshot": 0,
        "batch_size": wanted or ("auto" if is_vllm else HF_BATCH_SIZE),
        "output_path": output,
        "log_samples": True,
    }
    if is_vllm:
        arguments |= {
            "max_model_len": run.context_length,
            "tensor_parallel_size": engine.tensor_parallel_size,
            "pipeline_parallel_size": engine.pipeline_parallel_size,
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "enforce_eager": engine.enforce_eager,
        }
    else:
        arguments["max_length"] = run.context_length
        config["device"] = "cpu" if engine.device == "cpu" else "cuda:0"
    if task_files:
        config["include_path"] = task_files
    if run.settings.limit:
        config["limit"] = run.settings.limit
    return config


def ask_benchmarks(run: HarnessRun) -> str:
    """Run the harness on this node, and put its files into the output folder as they are.

    Returns:
        The harness's version.

    Raises:
        UserError: no harness for this interpreter, or it ended with an error. Its log is kept.
    """
    python = interpreter(run.placement.benchmarks.python)
    version = version_of(python)
    for name in storage.names(run.output):  # of a killed attempt
        if name.startswith((RESULTS, SAMPLES)):
            storage.delete(storage.join(run.output, name))
    with (
        tempfile.TemporaryDirectory(prefix="humpback-benchmarks-") as place,
        _local_task_files(run.task_files) as task_files,
    ):
        made = Path(place, "out")
        config = config_of(run, local_folder(run.model), task_files, str(made))
        file, log = Path(place, "config.yaml"), Path(place, LOG)
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        command = [python, "-m", "lm_eval", "run", "--config", str(file)]
        code = _run(command, task_files or place, log, run.backend)
        storage.write_bytes(storage.join(run.output, LOG), log.read_bytes())
        if code:
            raise UserError(
                f"lm-eval ended with exit code {code} on {run.name}: {_last_line(log)} (all of its "
                f"output lies in {run.output}/{LOG}); mend the cause and give the same command "
                "again"
            )
        for written in sorted(made.rglob("*.json*")):
            storage.write_bytes(storage.join(run.output, written.name), written.read_bytes())
    return version


def _run(command: Sequence[str], folder: str, log: Path, backend: str) -> int:
    """Run a command with its output in a log; returns the exit code.

    Args:
        folder: the working folder, from which task files name their data.
    """
    # Safe path, or a file such as datasets.py in the working folder would pass for a package.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1"}
    if backend == "vllm":
        environment[vllm_plugin.ENABLED] = "1"  # or its engine would outlive a killed process
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        # Ray kills a task's worker, and the harness would keep its GPU.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    with log.open("wb") as stream:
        return subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, check=False, preexec_fn=die_with_parent,
        ).returncode  # fmt: skip


def _last_line(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-500:] if lines else "it wrote nothing"


# --- before any work ------------------------------------------------------------------------------


def check_tasks(settings: BenchmarkSettings, task_files: str | None, python: str | None) -> None:
    """Refuse a missing harness and unknown tasks, which a run would meet only at its end.

    Args:
        task_files: folder or URL.
        python: interpreter; None: this one.

    Raises:
        UserError: the missing package or tasks, and the ways out.
    """
    version_of(found := interpreter(python))
    _check_names(found, settings.tasks, task_files)


def interpreter(python: str | None) -> str:
    """The interpreter to start, whatever the working folder; this one for None."""
    if python is None or os.sep not in python:
        return python or sys.executable
    return os.path.abspath(os.path.expanduser(python))


@cache
def version_of(python: str) -> str:
    """The version of lm_eval that an interpreter has.

    Raises:
        UserError: the interpreter cannot be started, or has no lm_eval.
    """
    program = "import importlib.metadata as m; print(m.version('lm_eval'))"
    code, said = _ask(python, ["-c", program])
    if code:
        raise UserError(
            f"{python} has no lm_eval, which the benchmarks need ({KEY}): install it there "
            f"(pip install lm_eval==0.4.13), or set {PYTHON_KEY} to an interpreter that has it, or "
            f"set {KEY}=null"
        )
    return said.strip()


@cache
def _check_names(python: str, tasks: tuple[str, ...], task_files: str | None) -> None:
    with _local_task_files(task_files) as folder:
        where = ["--include_path", folder] if folder else []
        code, said = _ask(python, ["-m", "lm_eval", "validate", "--tasks", ",".join(tasks), *where])
    if code:
        reason = next((line for line in said.splitlines() if line.startswith("Tasks not")), "")
        reason = reason or (said.strip().splitlines() or ["it wrote nothing"])[-1]
        others = f"and {task_files} may add some" if task_files else f"{KEY}.task_files adds some"
        raise UserError(
            f"lm-eval refuses the tasks ({KEY}.tasks): {reason}; `{python} -m lm_eval ls tasks` "
            f"lists its own, {others}"
        )


def _ask(python: str, arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a short command."""
    try:
        done = subprocess.run(
            [python, *arguments], capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=CHECK_SECONDS, check=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"{PYTHON_KEY}={python} cannot be started ({error.strerror}): set it to a Python "
            "interpreter that has lm_eval"
        ) from error
    return done.returncode, done.stdout if not done.returncode else done.stdout + done.stderr


@contextmanager
def _local_task_files(folder: str | None) -> Iterator[str | None]:
    """The folder of task files on this node; a URL is copied for as long as the block runs."""
    if folder is None or not storage.is_url(folder):
        yield folder and storage.absolute(folder)
        return
    filesystem, path = storage.locate(folder)
    with tempfile.TemporaryDirectory(prefix="humpback-tasks-") as place:
        filesystem.get(f"{path.rstrip('/')}/", f"{place}/", recursive=True)
        yield place
