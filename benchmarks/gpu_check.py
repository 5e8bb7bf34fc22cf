"""One command for a machine with one GPU: does the project work there, and how fast is it?

    python benchmarks/gpu_check.py [PART ...] [--json FILE] [--tiny]

It needs an NVIDIA GPU of 40 GB or more, 30 GB of disk in TMPDIR and no network, and takes at most
eight minutes. Models have random weights. Each part runs in a process with a time limit: one that
hangs takes time that others left over, and never a later part's share. The check names what the
installed packages do not allow, and what the time does not, with the reason. It exits with 1 if a
part failed or none ran. `--tiny` tries the same code on CPUs: its figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import harness
from gpu_parts import Outcome, Part, run_lanes
from gpu_results import (
    TOLERANCE,
    check_losses,
    compare_losses,
    comparisons,
    largest_difference,
    table,
)
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
    write_config,
)

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.config.settings import SamplingSettings
from humpback_ray.sizing import memory
from humpback_ray.sizing.architecture import PUBLISHED, Architecture

TOTAL_SECONDS = 480
SMALLEST_GPU, SMALLEST_DISK = 40, 30  # GB
FILE_WIDTH = 160  # columns of a table that no terminal shows
TRAINING = ("torch", "transformers", "deepspeed")
SERVING = ("torch", "transformers", "vllm")
RAY = ("ray", "pyarrow")  # ray.data and ray.train import pyarrow
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

        architecture, precision, dtype = (
            (TINY, "fp32", "float32") if self.tiny else (WIDTHS_7B, "bf16", "bfloat16")
        )
        # Writing and reading the weights of 7B would take a tenth of the time.
        folder = self.folder / "served"
        if not folder.exists():
            write_config(architecture, precision, folder)
        return ServedModel(str(folder), 2048, dtype, quantization=quantization, load_format="dummy")


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


# --- the check ----------------------------------------------------------------------------------

# In the order of importance. The shares are guesses of what an H100 needs, with the imports;
# together they stay below TOTAL_SECONDS, so a part that hangs takes none of a later one's.
PARTS = {
    "curves": Part(curves, 28, TRAINING),
    "plain": Part(plain, 34, TRAINING),
    "zero1": Part(partial(ours, zero_stage=1), 20, TRAINING, over="plain"),
    "zero2": Part(partial(ours, zero_stage=2), 20, TRAINING, over="plain"),
    "zero3": Part(partial(ours, zero_stage=3), 22, TRAINING, over="plain"),
    "7b-widths": Part(widths_7b, 30, TRAINING),
    "checkpointing": Part(
        partial(ours, gradient_checkpointing=True), 18, TRAINING, over="zero1"
    ),
    "liger": Part(
        partial(ours, kernels="liger"), 20, (*TRAINING, "liger_kernel"),
        "Liger's kernels are for GPUs", over="zero1",
    ),
    "sdpa": Part(
        plain_sdpa, 18, (*TRAINING, "flash_attn"), "FlashAttention 2 is for GPUs", over="plain"
    ),
    "ray-train": Part(ray_train, 36, (*TRAINING, *RAY), over="plain"),
    "generate-bare": Part(generate_bare, 50, SERVING),
    "generate-pool": Part(generate_pool, 36, (*SERVING, *RAY), over="generate-bare"),
    "rate-text": Part(rate_text, 24, SERVING, unit="pairs/s"),
    "rate-expected": Part(rate_expected, 22, SERVING, over="rate-text", unit="pairs/s"),
    "generate-fp8": Part(
        partial(generate_bare, quantization="fp8"), 24, SERVING, "fp8 weights need a GPU",
        over="generate-bare",
    ),
    "offload": Part(
        partial(ours, zero_stage=2, offload_optimizer="cpu"), 24, TRAINING,
        "there is no GPU to offload from", over="zero2",
    ),
}  # fmt: skip


def main() -> None:
    options = parsed()
    # Lines appear at once in a pipe too, and SIGTERM keeps what has been measured.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not harness.console.is_terminal:
        harness.console.width = FILE_WIDTH
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(harness.QUIET)
    with harness.scratch_folder() as folder:
        check = Check(options.tiny, folder)
        say_what_is_small(check)
        if options.tiny:
            prepare_cpu(check)
        outcomes = run(options.parts or list(PARTS), check, options.seconds)
    compare_losses(outcomes, check.case().precision)
    harness.console.print(table(outcomes, PARTS))
    parts = {name: asdict(outcome) for name, outcome in outcomes.items()}
    harness.finish(comparisons(outcomes), options.json, parts=parts, gpu=gpu(), tiny=options.tiny)
    states = {outcome.state for outcome in outcomes.values()}
    sys.exit("failed" in states or "ran" not in states)


def parsed() -> argparse.Namespace:
    """The command line's options; exits with 2 and one line where they cannot be met."""
    parser = harness.arguments(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="the same code on CPUs")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all parts")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - PARTS.keys()):
        parser.error(f"no part {', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    if not options.tiny and not gpu():
        parser.error("nvidia-smi finds no GPU here: --tiny tries the same code on CPUs")
    if options.json:
        try:
            Path(options.json).absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--json {options.json}: its folder cannot be made: {error.strerror}")
    return options


def run(names: list[str], check: Check, seconds: float) -> dict[str, Outcome]:
    """Outcomes of the named parts, in the order of PARTS."""
    outcomes = {}
    for name in names:
        if reason := PARTS[name].reason_against(check.device):
            outcomes[name] = Outcome("left out", reason)
            harness.console.print(f"{name}: left out, {reason}", soft_wrap=True)
    wanted = {name: part for name, part in PARTS.items() if name in {*names} - outcomes.keys()}
    outcomes |= run_lanes(lanes(wanted, check), check, check.folder, seconds)
    return {name: outcomes[name] for name in PARTS if name in outcomes}


def lanes(parts: dict[str, Part], check: Check) -> list[dict[str, Part]]:
    """A GPU's parts one after the other; on CPUs, where rates say nothing, in two lanes.

    The lanes share no model folder, because training and serving have different ones.
    """
    if not check.tiny:
        return [parts]
    serving = {name: part for name, part in parts.items() if part.needs[: len(SERVING)] == SERVING}
    return [{name: parts[name] for name in parts if name not in serving}, serving]


def prepare_cpu(check: Check) -> None:
    """Variables that libraries read when they are imported, and the process that imports them."""
    from humpback_ray.serving import vllm_engine

    os.environ.update(vllm_engine.environment(check.engine_placement()))
    # Threads that spin while they wait make every step slow where other work shares the cores.
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    wanted = ("deepspeed", "transformers.models.llama.modeling_llama", "vllm.entrypoints.llm")
    there = [name for name in wanted if importlib.util.find_spec(name.split(".")[0])]
    multiprocessing.get_context("forkserver").set_forkserver_preload(there)


def say_what_is_small(check: Check) -> None:
    """Warn of memory and disk that may end a part for another reason than our code."""
    memory_mib = re.search(r"([0-9]+) MiB", gpu())
    if not check.tiny and memory_mib and int(memory_mib[1]) < 1000 * SMALLEST_GPU:
        harness.console.print(f"this GPU has less than {SMALLEST_GPU} GB: parts may run out of it")
    free = shutil.disk_usage(check.folder).free / 1e9
    if not check.tiny and free < SMALLEST_DISK:
        harness.console.print(
            f"{check.folder.parent} has {free:.0f} GB free, and the models and checkpoints need "
            f"{SMALLEST_DISK}: set TMPDIR to a larger disk"
        )


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


if __name__ == "__main__":
    main()
