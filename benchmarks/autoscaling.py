"""Node-seconds of two autoscaled passes / node-seconds in which engines answer, and the lags.

The passes, augment and rate, begin on a head without worker nodes. Ray's autoscaler starts a raylet
with a logical device for each engine, and ends the raylets between the passes, where a training
would run, and after the last one. Engines are scripted, so a node spends its time starting,
answering, and waiting for the idle timeout.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import ray
import raylets
import scripted
from full_size import Walk, drive, write_segments, write_tokenizer

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving.requests import ServedModel

STEPS = ("augment", "rate-1")
SECONDS_OF_AN_ANSWER, NUM_PLACES = 1.0, 16
POLL_SECONDS = 0.2
SECONDS_TO_GO = 120.0
OVER, UNDER = "paid for", "answering"


@dataclass
class Watch:
    """Samples the number of worker nodes. A context manager."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self.samples.append((time.monotonic(), raylets.num_nodes() - 1))

    def node_seconds(self, begin: float, end: float) -> float:
        """Worker nodes times seconds, from one time to another."""
        inside = [sample for sample in self.samples if begin <= sample[0] <= end]
        return sum(count * (then - now) for (now, count), (then, _) in itertools.pairwise(inside))

    def wait_until_gone(self) -> float:
        """The time at which the last worker node has gone."""
        deadline = time.monotonic() + SECONDS_TO_GO
        while not self.samples or self.samples[-1][1]:
            assert time.monotonic() < deadline, f"{self.samples[-1:]} nodes stay"
            time.sleep(POLL_SECONDS)
        return self.samples[-1][0]


def measure(
    address: str, folder: Path, rows: int, num_engines: int, model: ServedModel
) -> list[dict[str, Any]]:
    """Lags and node-seconds of each pass."""
    raylets.connect(address)
    write_segments(folder, rows)
    (log := folder / "log").mkdir()
    engine = EnginePlacement(
        device="gpu", max_engines=num_engines, max_num_seqs=NUM_PLACES, rows_per_batch=32,
    )  # fmt: skip
    walk = Walk(
        folder, folder, model, engine, STEPS, SECONDS_OF_AN_ANSWER, log=str(log), address=address,
        autoscaling=True,
    )  # fmt: skip
    driver = harness.Side(drive, walk)
    driver.next()
    figures = []
    with Watch() as watch:
        watch.wait_until_gone()
        for step in STEPS:
            before = set(scripted.answers(log))
            begin = time.monotonic()
            result = driver.next()
            assert result["rows"] == rows
            gone = watch.wait_until_gone()
            new = [times for name, times in scripted.answers(log).items() if name not in before]
            first, last = min(map(min, new)), max(map(max, new))
            # A node comes up, answers its first request a latency after it has got it, and goes.
            answering = sum(max(times) - min(times) + SECONDS_OF_AN_ANSWER for times in new)
            came = min(at for at, count in watch.samples if count and at > begin)
            paid = watch.node_seconds(begin, gone)
            figures.append(
                {
                    "step": step,
                    "num_nodes": max(count for at, count in watch.samples if at > begin),
                    "demand_to_node": came - begin,
                    "demand_to_first_row": first - begin,
                    "last_row_to_no_nodes": gone - last,
                    "node_seconds": paid,
                    "answering_node_seconds": answering,
                    "idle_node_seconds": paid - answering,
                }
            )
    driver.close()
    ray.shutdown()
    return figures


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--idle-minutes", type=float, default=0.05, help="of the autoscaler")
    options = parser.parse_args()
    comparison = harness.Comparison("node-seconds", "seconds", OVER, UNDER, 1.5, at_most=True)
    with (
        harness.scratch_folder() as folder,
        harness.variables(harness.QUIET),
        raylets.growing_cluster(folder, options.engines, options.idle_minutes) as address,
    ):
        model = write_tokenizer(folder)
        passes = measure(address, folder, options.rows, options.engines, model)
    for figures in passes:
        shown = {key: value for key, value in figures.items() if "seconds" not in key}
        comparison.add(OVER, value=figures["node_seconds"], **shown)
        comparison.add(UNDER, value=figures["answering_node_seconds"], step=figures["step"])
    harness.finish(
        [comparison], options.json, passes=passes, idle_minutes=options.idle_minutes
    )  # fmt: skip


if __name__ == "__main__":
    main()
