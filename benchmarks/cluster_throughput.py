"""Rows/s of augmenting and rating and steps/s of training, on the cluster at hand.

`python benchmarks/cluster_throughput.py RECIPE --run s3://... --json FILE`, and the next time with
`--against FILE`: the ratio is now over then. The recipe's segments are made, then `humpback probe`
sends a sample of them through every stage, with the recipe's own models, settings and placement.
Rows/s are those of all engines of the placement, as the probe extrapolates them from one.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import harness

from humpback_ray import pipeline, storage
from humpback_ray.config import recipe
from humpback_ray.execution import runner
from humpback_ray.planning import extrapolate, probe

MEASURED = {
    "augment": ("candidates", "rows/s"),
    "rate": ("iter-1/rated", "rows/s"),
    "train": ("iter-1/model", "steps/s"),
}
NOW, EARLIER = "now", "earlier"


def compare(
    report: extrapolate.ProbeReport, earlier: dict[str, Any] | None
) -> list[harness.Comparison]:
    """A comparison for each kind of stage; training last, whose ratio ends the output."""
    stages = {stage.path: stage for stage in report.stages}
    comparisons = []
    for number, (name, (path, unit)) in enumerate(MEASURED.items()):
        comparison = harness.Comparison(name, unit, NOW, EARLIER, 0.9)
        if earlier is not None:
            comparison.add(EARLIER, value=earlier["comparisons"][number]["median"][NOW])
        stage = stages[path]
        comparison.add(NOW, value=1 / stage.unit_seconds, relative_error=stage.relative_error)
        comparisons.append(comparison)
    return comparisons


def read_earlier(file: str, settings: dict[str, Any]) -> dict[str, Any]:
    """An earlier result of the same settings, whatever its placement and machines."""
    found = json.loads(Path(file).read_text())
    if found.get("settings") != settings:
        raise SystemExit(f"{file} is of other settings: compare results of one recipe")
    return found


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("recipe", nargs="?", default="tiny", help="shipped name or YAML file")
    parser.add_argument(
        "--run", help="folder or URL that all nodes see; a temporary one if left out"
    )
    parser.add_argument("--rows", type=int, default=256, help="segments to draw")
    parser.add_argument("--set", action="append", metavar="A.B=C", help="as of `humpback run`")
    parser.add_argument("--against", metavar="FILE", help="an earlier --json of the same recipe")
    options = parser.parse_args()
    loaded = recipe.load_recipe(options.recipe, options.set)
    settings = loaded.settings.model_dump(mode="json")
    earlier = read_earlier(options.against, settings) if options.against else None
    with ExitStack() as stack:
        stack.enter_context(harness.variables(harness.QUIET))
        run = options.run or str(stack.enter_context(harness.scratch_folder()))
        run = storage.absolute(run)
        stages = pipeline.stages_of(loaded)
        runner.run(stages, loaded, run, harness.console, until="segments")
        report = probe.probe_run(run, options.rows, harness.console)
    for note in report.notes:
        harness.console.print(note)
    harness.finish(
        compare(report, earlier), options.json, settings=settings,
        placement=loaded.placement.model_dump(mode="json"), num_gpus=report.num_gpus,
    )  # fmt: skip


if __name__ == "__main__":
    main()
