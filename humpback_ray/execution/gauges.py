"""Gauges of a stage for Ray's Prometheus endpoint, beside the counters of its engines."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util import metrics

TAGS = ("run", "stage")
OF_GENERATION = {
    "rows_saved": "Rows on disk",
    "rows_wanted": "Rows of the finished stage",
    "engines_running": "Engines that have started",
    "engines_wanted": "Engines that the pool requests",
}
OF_TRAINING = {
    "step": "Optimizer steps done",
    "num_steps": "Optimizer steps of the training",
    "loss": "Nats per target token of the step's batch",
    "gradient_norm": "Norm of the gradient before clipping",
    "learning_rate": "Learning rate of the step",
    "tokens_per_second": "Tokens trained on per second, prompts included",
    "num_workers": "Training workers",
}


class Gauges:
    """Gauges `ray_humpback_NAME` of one stage of one run.

    Args:
        figures: descriptions by name.
        run: name of the run.
        stage: path of the stage.
    """

    def __init__(self, figures: Mapping[str, str], run: str, stage: str) -> None:
        self._gauges = {
            name: metrics.Gauge(f"humpback_{name}", description, tag_keys=TAGS)
            for name, description in figures.items()
        }
        # Ray encodes tags as ASCII, and a run's folder may have any name.
        name = run.encode("ascii", "backslashreplace").decode()
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": name, "stage": stage})

    def set(self, values: Mapping[str, float]) -> None:
        """Export the values that have a gauge."""
        for name in self._gauges.keys() & values.keys():
            self._gauges[name].set(values[name])
