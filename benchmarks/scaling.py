"""Rows/s of 1, 4 and 16 engines over several nodes: does one driver feed them all?

Nodes are raylets on this machine with logical CPUs. A scripted engine answers 64 requests in about
four seconds, 15 rows/s, so sixteen engines take a fifth of the tokens/s that two cores tokenize,
and the script measures the feeding. It counts rows while all engines work. Latencies vary, so
answers do not come in waves of 64. `--engines 1 16 64` measures more, at 0.4 GB of memory each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import scripted
from full_size import Walk, run_steps, write_segments, write_tokenizer

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving.requests import ServedModel

ENGINES_PER_NODE = 4
NUM_PLACES = 64  # of an engine
OVER, UNDER = 16, 1


@contextmanager
def nodes(num_engines: int) -> Iterator[str]:
    """The address of a cluster with a head for reading and writing, and nodes for the engines."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 150 * 2**20}
    head = {"num_cpus": 4, "include_dashboard": False, **memory}
    with harness.variables(harness.QUIET):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(-(-num_engines // ENGINES_PER_NODE)):
                cluster.add_node(num_cpus=ENGINES_PER_NODE, **memory)
            yield cluster.address
        finally:
            cluster.shutdown()


def measure(num_engines: int, rows: int, folder: Path, model: ServedModel) -> dict[str, Any]:
    """Rows/s of each engine while all are at work."""
    source = folder / f"{num_engines}"
    (log := source / "log").mkdir(parents=True)
    write_segments(source, rows * num_engines)
    engine = EnginePlacement(
        device="cpu", min_engines=num_engines, max_engines=num_engines, max_num_seqs=NUM_PLACES,
        rows_per_batch=32,
    )  # fmt: skip
    with nodes(num_engines) as address:
        walk = Walk(source, source, model, engine, ("augment",), 4.0, 0.3, str(log), address)
        (step,) = run_steps(walk)
    times = scripted.answers(log)
    assert len(times) == num_engines, "an engine had no row: give more --rows"
    begin, end = max(found[0] for found in times.values()), min(map(max, times.values()))
    assert begin < end, "the first engine was done before the last had begun: give more --rows"
    counted = sum(begin < time <= end for found in times.values() for time in found)
    seconds = end - begin
    return {
        "value": counted / seconds / num_engines,
        "rows_per_second": counted / seconds,
        "seconds_at_work": seconds,
        "num_nodes": -(-num_engines // ENGINES_PER_NODE),
        "step": step,
    }


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--engines", nargs="+", type=int, default=[UNDER, 4, OVER])
    parser.add_argument("--rows", type=int, default=1000, help="for each engine")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    comparison = harness.Comparison(
        "scaling", "rows/s of each engine", f"{OVER} engines", f"{UNDER} engines", 0.95
    )
    for repeat in range(options.repeats):
        for num_engines in sorted({UNDER, OVER, *options.engines}):
            with harness.scratch_folder() as folder:
                model = write_tokenizer(folder)
                figures = measure(num_engines, options.rows, folder, model)
            comparison.add(f"{num_engines} engines", repeat=repeat, **figures)
    harness.finish([comparison], options.json)


if __name__ == "__main__":
    main()
