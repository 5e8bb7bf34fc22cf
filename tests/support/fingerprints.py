"""Fingerprints of every shipped recipe's stages, whatever data this machine has.

`python -m tests.support.fingerprints` writes them anew into tests/fingerprints.json. Do that when a
change of what a stage depends on is meant, and read the diff: each line is work that a user's
finished run would have to do again.
"""

from __future__ import annotations

import json
from pathlib import Path

from humpback_ray.config.recipe import load_recipe, recipe_names
from humpback_ray.execution.stage import Source, Stage, fingerprint
from humpback_ray.pipeline import stages_of

GOLDEN = Path(__file__).parent.parent / "fingerprints.json"


def of_recipes() -> dict[str, dict[str, str]]:
    """Fingerprints by recipe and stage; a source counts by the name of the input that it is."""
    return {
        name: {stage.path: _without_data(stage) for stage in stages_of(load_recipe(name))}
        for name in recipe_names()
    }


def _without_data(stage: Stage) -> str:
    inputs = {
        name: f"source {name}" if isinstance(source, Source) else _without_data(source)
        for name, source in stage.inputs.items()
    }
    return fingerprint({**stage.identity, "inputs": inputs})


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(of_recipes(), indent=1) + "\n")
