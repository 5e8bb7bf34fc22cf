"""What a kill costs: rows asked again, and seconds until the work goes on.

A pass of augmentation with scripted engines on a cluster of raylets on this machine. In turn
nothing is killed, the driver (kill -9, and the same command again), an engine, a worker that reads
or writes, and the raylet of a node with an engine, each when half of the rows are answered. The
ratio is the requests begun with a killed driver over those of the undisturbed pass. Last, how long
a submitted job takes to its first row.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import psutil
import scripted
from full_size import Walk, drive, write_segments, write_tokenizer
from rich.table import Table

from humpback_ray import tables
from humpback_ray.config import EnginePlacement
from humpback_ray.engines.request import Model

NUM_NODES = 2
ENGINE = EnginePlacement(
    device="cpu", min_engines=1, max_engines=NUM_NODES, max_num_seqs=256, rows_per_batch=64,
    max_concurrent_batches=4, stall_seconds=20,
)  # fmt: skip
SECONDS_OF_AN_ANSWER = 1.0
UNDISTURBED, DRIVER, ENGINE_KILLED, WORKER, RAYLET = (
    "undisturbed", "driver", "engine", "worker", "raylet",
)  # fmt: skip
ENGINE_TITLE = "ray::MapWorker(MapBatches(EngineActor)"
WORKER_TITLES = ("ray::MapBatches(_save)", "ray::IDLE", "ray::Read", "ray::ListFiles")
TIMEOUT = 300.0


@contextmanager
def cluster() -> Iterator[Any]:
    """A head that reads and writes, with job server, and a node for each engine."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 150 * 2**20}
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000,
             "health_check_failure_threshold": 5}  # fmt: skip
    head = {"num_cpus": 3, "include_dashboard": True, "_system_config": quick, **memory}
    with harness.variables(harness.QUIET):
        found = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NUM_NODES):
                found.add_node(num_cpus=2, **memory)
            yield found
        finally:
            found.shutdown()


class Pass:
    """A pass in a driver of its own, watched through what its engines write."""

    def __init__(self, folder: Path, num_rows: int, model: Model, address: str) -> None:
        self.folder, self.num_rows = folder, num_rows
        self.log = folder / "log"
        self.log.mkdir(parents=True)
        write_segments(folder, num_rows)
        self._walk = Walk(
            folder, folder, model, ENGINE, ("augment",), SECONDS_OF_AN_ANSWER, 0.3, str(self.log),
            address,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        self.began = time.monotonic()
        self.driver = harness.Side(drive, self._walk)
        self.driver.next()
        self.driver.ask()

    @property
    def num_answered(self) -> int:
        return sum(len(times) for times in scripted.answers(self.log).values())

    def wait_for(self, num_answered: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while self.num_answered < num_answered:
            assert time.monotonic() < deadline, f"{self.num_answered} of {num_answered} rows"
            time.sleep(0.05)

    def first_answer(self, after: float, others: set[str]) -> float | None:
        """When an engine that is none of the `others` first answered, later than a time."""
        times = [t for name, found in scripted.answers(self.log).items() if name not in others
                 for t in found if t > after]  # fmt: skip
        return min(times, default=None)

    def finish(self) -> dict[str, Any]:
        self.driver.answer()
        seconds = time.monotonic() - self.began
        self.driver.close()
        assert tables.num_rows(str(self.folder / "augment" / "rows")) == self.num_rows
        tables.assert_unique(str(self.folder / "augment" / "rows"), "candidate_id")
        return {"seconds": seconds, "num_begun": scripted.num_begun(self.log)}


def processes(*titles: str) -> list[psutil.Process]:
    """Ray's workers on this benchmark's cluster whose title begins with one of these."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line and line[0].startswith(titles):
            found.append(process)
    return found


def kill(kind: str, work: Pass, ray_cluster: Any) -> None:
    """Kill one process of a kind, and do what a person would do then."""
    if kind == DRIVER:
        psutil.Process(work.driver.pid).kill()
        work.driver.close()
        work.start()
    elif kind == ENGINE_KILLED:
        processes(ENGINE_TITLE)[0].kill()
    elif kind == WORKER:
        processes(*WORKER_TITLES)[0].kill()
    elif kind == RAYLET:
        processes(ENGINE_TITLE)[0].parent().kill()
        ray_cluster.add_node(num_cpus=2, object_store_memory=150 * 2**20)


def measure(kind: str, folder: Path, num_rows: int, model: Model, found: Any) -> dict[str, Any]:
    """A pass in the middle of which something is killed."""
    work = Pass(folder / kind, num_rows, model, found.address)
    began = work.began
    work.wait_for(1)
    first = work.first_answer(0.0, set())
    assert first is not None
    figures: dict[str, Any] = {"seconds_to_first_row": first - began}
    if kind != UNDISTURBED:
        work.wait_for(num_rows // 2)
        before, then = set(scripted.answers(work.log)), time.monotonic()
        kill(kind, work, found)
        figures |= work.finish()
        back = work.first_answer(then, before)
        figures["seconds_to_recover"] = None if back is None else back - then
    else:
        figures |= work.finish()
    figures["seconds"] = time.monotonic() - began
    again = figures["num_begun"] - num_rows
    return {"value": figures["num_begun"] / num_rows, "num_begun_again": again, **figures}


def submission(folder: Path, model: Model, found: Any) -> dict[str, float]:
    """Seconds from `ray job submit` of a small pass to its first answer, and to the job's end."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    job = folder / "job"
    (job / "log").mkdir(parents=True)
    write_segments(job, 512)
    began = time.monotonic()
    client = JobSubmissionClient(f"http://{found.webui_url}")
    name = client.submit_job(
        entrypoint=f"{sys.executable} {Path(__file__).resolve()} --job {job} {model.location}",
        runtime_env={"env_vars": {**harness.QUIET, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
    )
    while not (status := client.get_job_status(name)).is_terminal():
        time.sleep(0.2)
    assert status == JobStatus.SUCCEEDED, client.get_job_logs(name)
    times = scripted.answers(job / "log")
    first = min(found[0] for found in times.values())
    return {"to_first_row": first - began, "to_end": time.monotonic() - began}


def run_job(folder: Path, location: str) -> None:
    """What the submitted job runs."""
    walk = Walk(
        folder, folder, Model(location, 2048, "auto"), ENGINE, ("augment",), SECONDS_OF_AN_ANSWER,
        log=str(folder / "log"), address="auto",
    )  # fmt: skip
    for _ in drive(walk):
        pass


def table(runs: dict[str, list[dict[str, Any]]]) -> Table:
    """What was killed, what was lost, and for how long."""
    rows = Table(
        "killed", "seconds to the first row", "to recover", "in all", "rows asked again",
        "work", title="cost of a kill",
    )  # fmt: skip
    for kind, (run, *_) in runs.items():
        back = run.get("seconds_to_recover")
        rows.add_row(
            kind, f"{run['seconds_to_first_row']:.1f}", "-" if back is None else f"{back:.1f}",
            f"{run['seconds']:.1f}", f"{run['num_begun_again']:,}", f"{run['value']:.4f}",
        )  # fmt: skip
    return rows


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--job", nargs=2, help="what the submitted job is given: folder, model")
    options = parser.parse_args()
    if options.job:
        run_job(Path(options.job[0]), options.job[1])
        return
    comparison = harness.Comparison(
        "work of a pass whose driver is killed", "requests begun for each row", DRIVER,
        UNDISTURBED, 1.05, at_most=True,
    )  # fmt: skip
    with harness.scratch_folder() as folder, cluster() as found:
        model = write_tokenizer(folder)
        for kind in (UNDISTURBED, DRIVER, ENGINE_KILLED, WORKER, RAYLET):
            comparison.add(kind, **measure(kind, folder, options.rows, model, found))
        submitted = submission(folder, model, found)
    harness.console.print(table(comparison.runs))
    harness.console.print(
        f"submitted job: {submitted['to_first_row']:.1f} s to its first row, "
        f"{submitted['to_end']:.1f} s to its end"
    )
    harness.finish([comparison], options.json, submission_seconds=submitted)


if __name__ == "__main__":
    main()
