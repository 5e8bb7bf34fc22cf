"""How many engines a cluster has room for. Neither Ray nor vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]  # as Ray names them: CPU, GPU, accelerator_type:H100, ...
NUM_CPUS_FOR_ROWS = 2  # one task that reads and one that writes, beside the engines
SHOWN = ("CPU", "GPU", "accelerator_type")


def num_engines(bundles: Sequence[Resources], nodes: Sequence[Resources], across: bool) -> int:
    """How many engines fit at a time, with CPUs left for the tasks that read and write rows.

    Args:
        bundles: of one engine, all alike.
        nodes: what each node has.
        across: one engine's bundles may lie on several nodes.
    """
    on_nodes = [int(min(node.get(name, 0) / bundles[0][name] for name in bundles[0]))
                for node in nodes]  # fmt: skip
    size = len(bundles)
    by_devices = sum(on_nodes) // size if across else sum(on // size for on in on_nodes)
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    cpus_of_engine = sum(bundle.get("CPU", 0) for bundle in bundles)
    if num_cpus < cpus_of_engine + 1:
        return 0
    return min(by_devices, max(int((num_cpus - NUM_CPUS_FOR_ROWS) // cpus_of_engine), 1))


def describe(bundles: Sequence[Resources], across: bool) -> str:
    """What one engine needs, for people."""
    where = "on any nodes" if across else "on one node"
    return f"{len(bundles)} x ({_listed(bundles[0])})" + (f" {where}" if len(bundles) > 1 else "")


def describe_nodes(nodes: Sequence[Resources]) -> str:
    """What a cluster has, for people; equal nodes are counted."""
    lines = [_listed(node) for node in nodes]
    return "; ".join(f"{lines.count(line)} x ({line})" for line in dict.fromkeys(lines))


def _listed(resources: Resources) -> str:
    found = [f"{name} {value:g}" for name, value in sorted(resources.items())
             if name.startswith(SHOWN)]  # fmt: skip
    return ", ".join(found) or "nothing"
