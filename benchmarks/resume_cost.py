"""Cost of a kill: repeated requests, and seconds until the next row.

A pass of augmentation with scripted engines on a cluster of raylets on this machine. In turn the
script kills nothing, the driver (kill -9, then the same command again), an engine, a worker that
reads or writes, the raylet of a node with an engine, such a node after a preemption notice, and the
head with everything on it (then the same command on a new cluster), each when a quarter of the rows
has an answer. The ratio is the requests begun with a killed driver over those of the undisturbed
pass. Last, the script measures the time of a submitted job to its first row.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import harness
import psutil
import raylets
import scripted
from full_size import Walk, drive, write_segments, write_tokenizer
from rich.table import Table

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving.requests import ServedModel

NUM_NODES = 2
ENGINE = EnginePlacement(
    device="gpu", min_engines=1, max_engines=NUM_NODES, max_num_seqs=256, rows_per_batch=64,
    max_concurrent_batches=4, stall_seconds=20,
)  # fmt: skip
SECONDS_OF_AN_ANSWER = 2.0
UNDISTURBED, DRIVER, ENGINE_KILLED, WORKER, RAYLET, HEAD = (
    "undisturbed", "driver", "engine", "worker", "raylet", "head",
)  # fmt: skip
NOTICE_SECONDS = {"notice of 30 s": 30, "notice of 120 s": 120}
KINDS = (UNDISTURBED, DRIVER, ENGINE_KILLED, WORKER, RAYLET, *NOTICE_SECONDS, HEAD)
MEMORY = {"object_store_memory": 150 * 2**20}
TIMEOUT = 300.0


class Machines:
    """A cluster whose head reads and writes and has a job server, with a node for each engine.

    A context manager.
    """

    def __enter__(self) -> Machines:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    def start(self) -> None:
        """Start a cluster; the previous one must have ended."""
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 3, "num_gpus": 0, "include_dashboard": True,
                # A second head must not wait for the port of the first head's agent.
                "dashboard_agent_listen_port": raylets.free_port(),
                "_system_config": raylets.NOTICED_SOON, **MEMORY}  # fmt: skip
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NUM_NODES):
            self.add_node()

    def add_node(self) -> None:
        """Add a node with capacity for one engine."""
        self.cluster.add_node(num_cpus=2, num_gpus=1, **MEMORY)

    def node_of_engine(self) -> Any:
        """A node with an engine."""
        raylet = raylets.processes(raylets.ENGINE_TITLE)[0].ppid()
        return next(
            node for node in self.cluster.worker_nodes
            if node.all_processes["raylet"][0].process.pid == raylet
        )  # fmt: skip


class GenerationPass:
    """A pass in a separate driver, watched through its engines' logs."""

    def __init__(self, folder: Path, num_rows: int, model: ServedModel, machines: Machines) -> None:
        self.folder, self.num_rows, self._model = folder, num_rows, model
        self._machines = machines
        self.log = folder / "log"
        self.log.mkdir(parents=True)
        write_segments(folder, num_rows)
        self.start()

    def start(self) -> None:
        """Start a driver, which keeps the saved rows."""
        walk = Walk(
            self.folder, self.folder, self._model, ENGINE, ("augment",), SECONDS_OF_AN_ANSWER,
            0.3, str(self.log), self._machines.cluster.address,
        )  # fmt: skip
        self.driver = harness.Side(drive, walk)
        self.driver.next()
        self.began = time.monotonic()
        self.driver.ask()

    def kill_driver(self) -> None:
        psutil.Process(self.driver.pid).kill()
        self.driver.close()

    @property
    def num_answered(self) -> int:
        return sum(len(times) for times in scripted.answers(self.log).values())

    def wait_for(self, num_answered: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while self.num_answered < num_answered:
            assert time.monotonic() < deadline, f"{self.num_answered} of {num_answered} rows"
            time.sleep(0.05)

    def first_answer(self, after: float, others: set[str]) -> float | None:
        """The first answer after a time from an engine outside `others`."""
        times = [t for name, found in scripted.answers(self.log).items() if name not in others
                 for t in found if t > after]  # fmt: skip
        return min(times, default=None)

    def finish(self) -> int:
        """Wait for the end, and check that no row repeats; returns the number of lost rows."""
        self.driver.answer()
        self.driver.close()
        rows = str(self.folder / "augment" / "rows")
        tables.assert_unique(rows, "candidate_id")
        return self.num_rows - tables.num_rows(rows)


def kill(kind: str, work: GenerationPass, machines: Machines) -> None:
    """Kill one process of a kind, and do what a person or a cloud would do then."""
    if kind == DRIVER:
        work.kill_driver()
        work.start()
    elif kind == ENGINE_KILLED:
        raylets.processes(raylets.ENGINE_TITLE)[0].kill()
    elif kind == WORKER:
        raylets.processes(*raylets.WORKER_TITLES)[0].kill()
    elif kind == RAYLET:
        machines.cluster.remove_node(machines.node_of_engine(), allow_graceful=False)
        machines.add_node()
    elif kind in NOTICE_SECONDS:
        node, seconds = machines.node_of_engine(), NOTICE_SECONDS[kind]
        raylets.notify(machines.cluster.address, node.node_id, seconds)
        # The cloud brings a new node first, and then takes the old one.
        machines.add_node()
        time.sleep(seconds)
        machines.cluster.remove_node(node, allow_graceful=False)
    elif kind == HEAD:
        # A submitted run has its driver on the head.
        work.kill_driver()
        machines.cluster.remove_node(machines.cluster.head_node, allow_graceful=False)
        machines.cluster.shutdown()
        machines.start()
        work.start()


def measure(
    kind: str, folder: Path, num_rows: int, model: ServedModel, machines: Machines
) -> dict[str, Any]:
    """Figures of a pass with one kill."""
    work = GenerationPass(folder / kind.replace(" ", "-"), num_rows, model, machines)
    began = work.began
    work.wait_for(1)
    first = work.first_answer(0.0, set())
    assert first is not None
    figures: dict[str, Any] = {"seconds_to_first_row": first - began}
    if kind != UNDISTURBED:
        work.wait_for(num_rows // 4)
        before, then = set(scripted.answers(work.log)), time.monotonic()
        kill(kind, work, machines)
        figures["num_lost"] = work.finish()
        back = work.first_answer(then, before)
        figures["seconds_to_recover"] = None if back is None else back - then
    else:
        figures["num_lost"] = work.finish()
    figures["seconds"] = time.monotonic() - began
    num_begun = scripted.num_begun(work.log)
    again = num_begun - num_rows
    return {"value": num_begun / num_rows, "num_begun_again": again, **figures}


def submission(folder: Path, model: ServedModel, machines: Machines) -> dict[str, float]:
    """Seconds from `ray job submit` of a small pass to its first answer, and to the job's end."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    job = folder / "job"
    (job / "log").mkdir(parents=True)
    write_segments(job, 512)
    began = time.monotonic()
    client = JobSubmissionClient(f"http://{machines.cluster.webui_url}")
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
    """Run the submitted job's pass."""
    walk = Walk(
        folder, folder, ServedModel(location, 2048, "auto"), ENGINE, ("augment",),
        SECONDS_OF_AN_ANSWER,
        log=str(folder / "log"), address="auto",
    )  # fmt: skip
    for _ in drive(walk):
        pass


def table(runs: dict[str, list[dict[str, Any]]]) -> Table:
    """A table of the kills with their times and lost rows."""
    rows = Table(
        "killed", "seconds to the first row", "to recover", "in all", "rows lost",
        "rows asked again", "work", title="cost of a kill",
    )  # fmt: skip
    for kind, (run, *_) in runs.items():
        back = run.get("seconds_to_recover")
        rows.add_row(
            kind, f"{run['seconds_to_first_row']:.1f}", "-" if back is None else f"{back:.1f}",
            f"{run['seconds']:.1f}", str(run["num_lost"]),
            f"{run['num_begun_again']:,}", f"{run['value']:.4f}",
        )  # fmt: skip
    return rows


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--job", nargs=2, help="what the submitted job is given: folder, model")
    options = parser.parse_args()
    if options.job:
        run_job(Path(options.job[0]), options.job[1])
        return
    comparison = harness.Comparison(
        "work of a pass whose driver is killed", "requests begun for each row", DRIVER,
        UNDISTURBED, 1.05, at_most=True,
    )  # fmt: skip
    with harness.variables(harness.QUIET), harness.scratch_folder() as folder:
        model = write_tokenizer(folder)
        with Machines() as machines:
            for kind in options.kinds:
                # Work for longer than the notice, so that the node goes in the middle of it.
                num_rows = options.rows * max(NOTICE_SECONDS.get(kind, 0) // 60, 1)
                comparison.add(kind, **measure(kind, folder, num_rows, model, machines))
            submitted = submission(folder, model, machines)
    harness.console.print(table(comparison.runs))
    harness.console.print(
        f"submitted job: {submitted['to_first_row']:.1f} s to its first row, "
        f"{submitted['to_end']:.1f} s to its end"
    )
    harness.finish([comparison], options.json, submission_seconds=submitted)


if __name__ == "__main__":
    main()
