"""The results of `gpu_check.py`: equal losses, ratios with goals, a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import harness
from gpu_parts import Outcome, Part
from rich.table import Table

# The largest difference of a step's loss between two ways to compute the same step, in nats.
TOLERANCE = {"bf16": 0.05, "fp32": 2e-3}


def largest_difference(losses: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def check_losses(losses: list[float], others: list[float], precision: str) -> None:
    """Equal losses count only where the steps have changed them."""
    difference, tolerance = largest_difference(losses, others), TOLERANCE[precision]
    assert difference <= tolerance, f"losses differ by {difference:.4f}: {losses}, {others}"
    assert others[0] - others[-1] > 5 * tolerance, f"the loss does not fall: {others}"


def compare_losses(outcomes: Mapping[str, Outcome], precision: str) -> None:
    """Turn trainings of the same steps with other losses than plain PyTorch's into failures."""
    expected = _figures(outcomes, "plain").get("losses")
    for name, outcome in outcomes.items():
        losses = outcome.figures.get("losses")
        if expected is None or losses is None or name == "7b-widths":
            continue
        outcome.figures["loss_difference"] = largest_difference(losses, expected)
        try:
            check_losses(losses, expected, precision)
        except AssertionError as error:
            outcome.state, outcome.reason = "failed", str(error)


def comparisons(outcomes: Mapping[str, Outcome]) -> list[harness.Comparison]:
    """Ratios with goals that this run has; the first of them, the training's, comes last."""
    wanted = [
        ("rating, expected over text", "pairs/s", "rate-expected", "rate-text", 6.0),
        (
            "generate, pool over bare vLLM",
            "output tokens/s",
            "generate-pool",
            "generate-bare",
            0.97,
        ),
        ("training through Ray Train over plain", "tokens/s", "ray-train", "plain", 0.95),
        ("training, ZeRO 3 over plain", "tokens/s", "zero3", "plain", 0.95),
        ("training, ZeRO 2 over plain", "tokens/s", "zero2", "plain", 0.95),
        ("training, ZeRO 1 over plain", "tokens/s", "zero1", "plain", 0.95),
    ]
    found = []
    for title, unit, over, under, goal in wanted:
        comparison = harness.Comparison(title, unit, over, under, goal)
        for side in (over, under):
            if outcome := _figures(outcomes, side):
                comparison.add(side, value=outcome["value"])
        found.append(comparison)
    for name in ("7b-widths", "zero1"):
        if _figures(outcomes, name).get("mfu") is not None:
            used = _figures(outcomes, name)
            comparison = harness.Comparison(f"MFU, {name}", "TFLOP/s", name, "dense peak", 0.45)
            comparison.add(name, value=used["mfu"] * used["peak_tflops"])
            comparison.add("dense peak", value=used["peak_tflops"])
            found.insert(0, comparison)
    known = [comparison for comparison in found if comparison.ratio is not None]
    # ZeRO 1's comes last if it was asked for and failed, too, so that no other stands in for it.
    return (
        known if known and ("zero1" not in outcomes or found[-1] in known) else known + found[-1:]
    )


def _figures(outcomes: Mapping[str, Outcome], name: str) -> dict[str, Any]:
    outcome = outcomes.get(name)
    return outcome.figures if outcome and outcome.state == "ran" else {}


def table(outcomes: Mapping[str, Outcome], parts: Mapping[str, Part]) -> Table:
    """One line for each part."""
    names = ("part", "", "s", "rate", "over", "MFU", "GiB", "loss ±", "note")
    lines = Table(*names, title="parts")
    for name, outcome in outcomes.items():
        figures, over = outcome.figures, parts[name].over
        other = _figures(outcomes, over).get("value")
        ratio = f"{figures['value'] / other:.2f} {over}" if other and figures else ""
        shown = [
            f"{figures[key]:{form}}" if figures.get(key) is not None else ""
            for key, form in (
                ("mfu", ".3f"),
                ("peak_memory_gib", ".1f"),
                ("loss_difference", ".4f"),
            )
        ]
        rate = f"{figures['value']:,.4g} {parts[name].unit}" if "value" in figures else ""
        note = outcome.reason or figures.get("note", "")
        lines.add_row(name, outcome.state, f"{outcome.seconds:.0f}", rate, ratio, *shown, note)
    return lines
