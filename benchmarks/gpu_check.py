"""One command for a machine with one GPU: does the project work there, and how fast is it?

    python benchmarks/gpu_check.py [PART ...] [--json FILE] [--tiny]

It needs an NVIDIA GPU of 40 GB or more and no network, and takes at most eight minutes. Models have
random weights. Each part runs in a process with a time limit, so a part that hangs costs its share
only; what the installed packages do not allow is left out by name with the reason. `--tiny` tries
the same code on CPUs: its figures say nothing about a GPU.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import harness
from gpu_training import (
    SEED,
    PlainEngine,
    TrainingCase,
    forecast,
    loss_on_cpu,
    our_engine,
    text,
    train,
    with_ray_train,
    write_model,
)
from rich.table import Table

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.config.settings import SamplingSettings
from humpback_ray.sizing import memory
from humpback_ray.sizing.architecture import PUBLISHED, Architecture

TOTAL_SECONDS = 480
SMALLEST_SHARE = 15  # seconds; with less left no part can say anything
TRAINING = ("torch", "transformers", "deepspeed")
SERVING = ("torch", "transformers", "vllm")
# The largest difference of a step's loss between two ways to compute the same step, in nats.
TOLERANCE = {"bf16": 0.05, "fp32": 2e-3}
PUBLIC_PAIRS = 0.49  # pairs/s on one GPU, of the public reimplementation's rating
# About 1.1B parameters, as TinyLlama has them; and what CPUs train in a second.
ARCHITECTURE = Architecture(2048, 5632, 22, 32, 4, 32_000, 64)
TINY = Architecture(64, 128, 2, 2, 1, 512, 32)
WIDTHS_7B = PUBLISHED["7"]


@dataclass(frozen=True)
class Check:
    """Inputs of every part."""

    tiny: bool
    folder: Path

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "gpu"

    def case(self) -> TrainingCase:
        if self.tiny:
            return TrainingCase("tiny", "cpu", TINY, "fp32", 128, 4, 256, self.folder)
        return TrainingCase("1.1B", "gpu", ARCHITECTURE, "bf16", 2048, 16, 4096, self.folder)

    def engine_placement(self) -> EnginePlacement:
        size = 4 if self.tiny else 256
        return EnginePlacement(
            device="cpu" if self.tiny else "gpu", enforce_eager=self.tiny, rows_per_batch=size
        )

    def served(self, quantization: str | None = None) -> Any:
        from humpback_ray.serving.requests import ServedModel

        name, architecture = ("tiny-served", TINY) if self.tiny else ("7B", WIDTHS_7B)
        folder, precision = self.folder / name, "fp32" if self.tiny else "bf16"
        if not folder.exists():
            write_model(architecture, precision, self.device, folder)
        dtype = "float32" if self.tiny else "bfloat16"
        return ServedModel(str(folder), 2048, dtype, quantization=quantization)


# --- parts --------------------------------------------------------------------------------------


def curves(check: Check) -> dict[str, Any]:
    """A tiny fp32 model: plain on the CPU, ours on the device; then its export on the CPU."""
    from humpback_ray.training.deepspeed_engine import export

    case = TrainingCase("curves", check.device, TINY, "fp32", 128, 4, 256, check.folder)
    examples = case.tokenized()
    on_cpu = train(PlainEngine(case, "cpu", "sdpa"), replace(case, device="cpu").job(), examples)
    output = check.folder / "exported"
    output.mkdir()
    job = case.job(str(output))
    engine = our_engine(job)
    found = train(engine, job, examples)
    check_losses(found["losses"], on_cpu["losses"], "fp32")
    export(engine.module, job, 0)
    weights = check.folder / "weights"
    engine.module.to("cpu").float().save_pretrained(weights)  # not by our export
    before, after, expected = (
        loss_on_cpu(str(folder), examples) for folder in (case.base(), output, weights)
    )
    assert abs(after - expected) < TOLERANCE["fp32"] < before - after, (before, after, expected)
    difference = largest_difference(found["losses"], on_cpu["losses"])
    return {
        "note": f"losses on the CPU and on the {check.device} differ by {difference:.1e}; "
        f"the export has loss {after:.3f} on the CPU, the base {before:.3f}"
    }


def plain(check: Check) -> dict[str, Any]:
    """The step without DeepSpeed, with the attention that ours takes."""
    from humpback_ray.training.deepspeed_engine import attention

    case = check.case()
    chosen = attention(check.device, case.precision)
    found = train(PlainEngine(case, check.device, chosen), case.job(), case.tokenized())
    return found | {"note": chosen}


def plain_sdpa(check: Check) -> dict[str, Any]:
    """The same with SDPA where FlashAttention 2 is installed."""
    case = check.case()
    return train(PlainEngine(case, check.device, "sdpa"), case.job(), case.tokenized())


def ours(check: Check, **placement: Any) -> dict[str, Any]:
    """Our engine's steps under one placement."""
    case = check.case()
    job = case.job(**placement)
    return train(our_engine(job), job, case.tokenized())


def ray_train(check: Check) -> dict[str, Any]:
    """`finetune` through Ray Train, with the loop of the workers."""
    return with_ray_train(check.case())


def widths_7b(check: Check) -> dict[str, Any]:
    """As many layers of 7B's widths as fit this GPU, and the estimate's forecast beside them."""
    tiny = replace(check.case(), name="tiny-wide", architecture=replace(TINY, hidden_size=128))
    case = tiny if check.tiny else replace(_most_layers(check), name="7B-widths")
    job, examples = case.job(), case.tokenized()
    found = train(our_engine(job), job, examples)
    layers = {"num_layers": case.architecture.num_layers}
    return found | layers | forecast(case, found, examples.lengths)


def _most_layers(check: Check) -> TrainingCase:
    """At most eight layers, which show the speed of all kernels within the time."""
    import torch

    there_is = torch.cuda.get_device_properties(0).total_memory
    case = check.case()
    for num_layers in range(8, 0, -1):
        architecture = replace(WIDTHS_7B, num_layers=num_layers)
        needed = memory.state_bytes(architecture, 1, 1) + memory.TRAINING_WORKSPACE
        needed += memory.activation_bytes(
            architecture, case.micro_batch_tokens, gradient_checkpointing=False
        )
        if needed <= there_is:
            break
    return replace(case, architecture=architecture)


def generate_bare(check: Check, quantization: str | None = None) -> dict[str, Any]:
    """Output tokens/s of `LLM.generate`."""
    import generate_overhead

    side = generate_overhead.bare(_generation(check, quantization))
    next(side)
    next(side)  # the first pass compiles what the warm-up did not meet
    return next(side)


def generate_pool(check: Check) -> dict[str, Any]:
    """The same rows through our `EnginePool` on a local Ray."""
    import generate_overhead

    side = generate_overhead.ours(_generation(check), check.folder)
    next(side)
    return next(side)


def _generation(check: Check, quantization: str | None = None) -> Any:
    import generate_overhead

    draw = Random(SEED)
    count, num_tokens = (8, 8) if check.tiny else (1024, 128)
    texts = tuple(f"{number} {text(draw, 12)}" for number in range(count))
    warm_up = tuple(text(draw, 12) for _ in range(2 if check.tiny else 256))
    sampling = SamplingSettings(max_tokens=num_tokens, temperature=0.7)
    return generate_overhead.Case(
        check.served(quantization), check.engine_placement(), sampling, texts, warm_up
    )


def rate_expected(check: Check) -> dict[str, Any]:
    """Pairs/s rated by the probabilities of one token, the rubric from the prefix cache."""
    import rating_cost

    side = rating_cost.expected(rating_cost.Case(check.served(), check.engine_placement()))
    next(side)
    return side.send(2 if check.tiny else 512)


def rate_text(check: Check) -> dict[str, Any]:
    """Pairs/s rated by sampled rationales of 150 tokens without a prefix cache."""
    import rating_cost

    side = rating_cost.text(rating_cost.Case(check.served(), check.engine_placement()))
    next(side)
    found = side.send((2, 4) if check.tiny else (128, 150))
    return found | {"note": f"the public reimplementation: {PUBLIC_PAIRS} pairs/s on one GPU"}


# --- processes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One question, in the order of importance."""

    run: Callable[[Check], dict[str, Any]]
    seconds: int  # at most
    needs: tuple[str, ...] = TRAINING
    only_gpu: str = ""  # the reason why a CPU cannot run it
    over: str = ""  # the part that its value is divided by


PARTS = {
    "curves": Part(curves, 60),
    "plain": Part(plain, 75),
    "zero1": Part(partial(ours, zero_stage=1), 60, over="plain"),
    "zero2": Part(partial(ours, zero_stage=2), 60, over="plain"),
    "zero3": Part(partial(ours, zero_stage=3), 60, over="plain"),
    "7b-widths": Part(widths_7b, 90),
    "checkpointing": Part(partial(ours, gradient_checkpointing=True), 60, over="zero1"),
    "liger": Part(
        partial(ours, kernels="liger"), 60, (*TRAINING, "liger_kernel"),
        "Liger's kernels are for GPUs", over="zero1",
    ),
    "sdpa": Part(
        plain_sdpa, 60, (*TRAINING, "flash_attn"), "FlashAttention 2 is for GPUs", over="plain"
    ),
    "ray-train": Part(ray_train, 120, (*TRAINING, "ray"), over="plain"),
    "generate-bare": Part(generate_bare, 150, SERVING),
    "generate-pool": Part(generate_pool, 150, (*SERVING, "ray"), over="generate-bare"),
    "rate-text": Part(rate_text, 120, SERVING),
    "rate-expected": Part(rate_expected, 120, SERVING, over="rate-text"),
    "generate-fp8": Part(
        partial(generate_bare, quantization="fp8"), 120, SERVING, "fp8 weights need a GPU",
        over="generate-bare",
    ),
    "offload": Part(
        partial(ours, zero_stage=2, offload_optimizer="cpu"), 120, TRAINING,
        "there is no GPU to offload from", over="zero2",
    ),
}  # fmt: skip


@dataclass
class Outcome:
    """The end of a part: `ran`, `left out` or `failed`, with the reason."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def run_part(name: str, check: Check, remaining: float) -> Outcome:
    """Run a part in a process, and kill its whole group when its time is over."""
    part = PARTS[name]
    missing = [package for package in part.needs if not importlib.util.find_spec(package)]
    if missing:
        return Outcome("left out", f"{', '.join(missing)} not installed")
    if check.tiny and part.only_gpu:
        return Outcome("left out", part.only_gpu)
    if remaining < SMALLEST_SHARE:
        return Outcome("left out", "no time left")
    limit = min(part.seconds, remaining)
    # On CPUs all parts are forked from one process that has imported the libraries. A process that
    # has asked for CUDA cannot be forked, so there each part imports them.
    context: Any = multiprocessing.get_context("forkserver" if check.tiny else "spawn")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, check, sender))
    began = time.monotonic()
    process.start()
    sender.close()
    log = check.folder / f"{name}.log"
    try:
        if answer.poll(limit):
            outcome = Outcome("ran", figures=answer.recv())
        else:
            outcome = Outcome("failed", f"no answer within {limit:.0f} s")
    except EOFError:
        process.join()
        outcome = Outcome("failed", _last_line(log) or f"exit code {process.exitcode}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with Ray's and vLLM's processes
        process.join(10)
    if outcome.state == "failed" and log.exists():
        harness.console.print(log.read_text(errors="replace")[-3000:], markup=False)
    outcome.seconds = time.monotonic() - began
    return outcome


def _child(name: str, check: Check, answer: Any) -> None:
    os.setsid()
    with open(check.folder / f"{name}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    answer.send(PARTS[name].run(check))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


# --- results ------------------------------------------------------------------------------------


def largest_difference(losses: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def check_losses(losses: list[float], others: list[float], precision: str) -> None:
    """Equal losses count only where the steps have changed them."""
    difference, tolerance = largest_difference(losses, others), TOLERANCE[precision]
    assert difference <= tolerance, f"losses differ by {difference:.4f}: {losses}, {others}"
    assert others[0] - others[-1] > 5 * tolerance, f"the loss does not fall: {others}"


def compare_losses(outcomes: dict[str, Outcome], precision: str) -> None:
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


def comparisons(outcomes: dict[str, Outcome]) -> list[harness.Comparison]:
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
    return [comparison for comparison in found[:-1] if comparison.ratio is not None] + found[-1:]


def _figures(outcomes: dict[str, Outcome], name: str) -> dict[str, Any]:
    outcome = outcomes.get(name)
    return outcome.figures if outcome and outcome.state == "ran" else {}


def table(outcomes: dict[str, Outcome]) -> Table:
    """One line for each part."""
    names = ("part", "", "s", "rate", "over", "MFU", "GiB", "loss ±", "note")
    lines = Table(*names, title="parts")
    for name, outcome in outcomes.items():
        figures, over = outcome.figures, PARTS[name].over
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
        rate = f"{figures['value']:,.4g}" if "value" in figures else ""
        note = outcome.reason or figures.get("note", "")
        lines.add_row(name, outcome.state, f"{outcome.seconds:.0f}", rate, ratio, *shown, note)
    return lines


def gpu() -> str:
    """Name, memory and driver of the first GPU; empty without one."""
    query = "--query-gpu=name,memory.total,driver_version"
    try:
        asked = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return ""
    return asked.stdout.split("\n")[0].strip() if asked.returncode == 0 else ""


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="the same code on CPUs")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all parts")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - PARTS.keys()):
        parser.error(f"no part {', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    if not options.tiny and not gpu():
        parser.error("nvidia-smi finds no GPU here: --tiny tries the same code on CPUs")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part outlives this
    end, outcomes = time.monotonic() + options.seconds, {}
    with harness.scratch_folder() as folder:
        check = Check(options.tiny, folder)
        os.environ.update(harness.QUIET)
        if options.tiny:
            prepare_cpu(check)
        for name in options.parts or PARTS:
            outcomes[name] = run_part(name, check, end - time.monotonic())
            state = outcomes[name]
            harness.console.print(f"{name}: {state.state} {state.reason} ({state.seconds:.0f} s)")
    compare_losses(outcomes, check.case().precision)
    found = comparisons(outcomes)
    harness.console.print(table(outcomes))
    parts = {name: asdict(outcome) for name, outcome in outcomes.items()}
    harness.finish(found, options.json, parts=parts, gpu=gpu(), tiny=options.tiny)
    sys.exit(any(outcome.state == "failed" for outcome in outcomes.values()))


def prepare_cpu(check: Check) -> None:
    """Variables that libraries read when they are imported, and the process that imports them."""
    from humpback_ray.serving import vllm_engine

    os.environ.update(vllm_engine.environment(check.engine_placement()))
    # Threads that spin while they wait make every step slow where other work shares the cores.
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    wanted = ("deepspeed", "transformers.models.llama.modeling_llama", "vllm.entrypoints.llm")
    there = [name for name in wanted if importlib.util.find_spec(name.split(".")[0])]
    multiprocessing.get_context("forkserver").set_forkserver_preload(there)


if __name__ == "__main__":
    main()
