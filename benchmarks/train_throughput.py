"""Output tokens/s of our training step / a bare PyTorch loop, and / TRL with and without packing.

All sides train the same model on the same examples, tokenized once, with AdamW in one process with
all cores, 32 examples or about as many tokens per step, and without gradient checkpointing, which
is TRL's default. The lengths are those of the paper's seed: lognormal with its means and
deviations, in characters of real text. The figures leave out the start and the first steps. The
sides run in turns, each in a separate process.

`bare PyTorch` has our micro-batches of the same steps and our loss, and neither Ray nor DeepSpeed
nor our settings for CPUs (a heap that is kept, attention by example). In bf16 it keeps no fp32
copy of the weights, and on a CPU without bf16 instructions it takes minutes for a step.

`TRL, packing` fills rows of `max_length` as TRL does; `TRL, no packing` pads micro-batches of 8
examples. TRL is no dependency of the project; without it the script leaves these two out.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import models
from rich.table import Table

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.rows import Origin, TrainingExample

OURS, BARE = "ours", "bare PyTorch"
TRL_PADDED, TRL_PACKED = "TRL, no packing", "TRL, packing"
GOALS = {BARE: 0.95, TRL_PADDED: 1.8, TRL_PACKED: 1.05}
TAG = "Answer in the style of an AI Assistant."
# Characters of the paper's seed, mean and standard deviation (Table 1).
INSTRUCTION, RESPONSE = (148, 322), (1072, 818)
PADDED_EXAMPLES = 8  # of a micro-batch
PHASES = ("forward", "backward", "optimizer")
RANDOM_SEED = 0
ENVIRONMENT = {
    # As our worker sets it: all cores for the one worker of a machine.
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    # With spinning waits, tests beside the benchmark made steps ten times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # As the bare loop's process. With Ray's default of 15, other work beside the benchmark would
    # slow our side more.
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Case:
    """Inputs of all sides."""

    base_model: str
    examples: str  # folder of Parquet files
    settings: TrainingSettings
    placement: TrainingPlacement
    num_warm_up: int  # first steps, which the figures leave out

    @property
    def num_steps(self) -> int:
        """Warm-up included."""
        assert self.settings.num_steps is not None
        return self.settings.num_steps

    @property
    def batch_size(self) -> int:
        assert self.settings.batch_size is not None
        return self.settings.batch_size

    @property
    def dtype(self) -> Any:
        """Dtype of the weights, the gradients and the states of the bare loop."""
        import torch

        return torch.bfloat16 if self.settings.precision == "bf16" else torch.float32

    def tokenized(self) -> Any:
        """The examples as our workers get them."""
        from humpback_ray.training.base_model import load_tokenizer
        from humpback_ray.training.examples import tokenize
        from humpback_ray.training.task import BaseModel

        tokenizer = load_tokenizer(BaseModel(self.base_model))
        tokenized, *_ = tokenize(self.examples, tokenizer, self.settings.max_length)
        return tokenized


# --- sides --------------------------------------------------------------------------------------


def ours(case: Case, folder: Path) -> Generator[dict[str, Any], Any, None]:
    """`finetune` with one worker on a local Ray, from the records of its steps."""
    import ray

    from humpback_ray.training.finetune import finetune
    from humpback_ray.training.records import StepRecord
    from humpback_ray.training.task import BaseModel, TrainingTask

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    records: list[StepRecord] = []
    arrived: list[float] = []

    def on_step(record: StepRecord) -> None:
        records.append(record)
        arrived.append(time.perf_counter())

    yield {}
    finetune(
        TrainingTask(BaseModel(case.base_model), case.examples, case.settings, RANDOM_SEED),
        placement=case.placement,
        output=str(folder / f"model-{os.getpid()}"),
        scratch_folder=str(folder / f"scratch-{os.getpid()}"),
        on_step=on_step,
    )
    assert [record.step for record in records] == list(range(1, case.num_steps + 1))
    figures = _figures(
        [
            {
                "seconds": speed.seconds,
                "output_tokens": round(speed.output_tokens_per_second * speed.seconds),
                "tokens": round(speed.tokens_per_second * speed.seconds),
                "forward": speed.forward_seconds,
                "backward": speed.backward_seconds,
                "optimizer": speed.optimizer_seconds,
            }
            for speed in (record.speed for record in records[case.num_warm_up :])
        ]
    )
    # A record's seconds end before the worker posts it. The driver's clock includes that, to a
    # fifth of a second, its polling interval.
    wall = arrived[-1] - arrived[case.num_warm_up - 1]
    yield figures | {"wall_seconds_per_step": wall / (case.num_steps - case.num_warm_up)}


def bare(case: Case, folder: Path) -> Generator[dict[str, Any], Any, None]:
    """The same steps in a plain loop."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from humpback_ray.method.schedule import batch_indices
    from humpback_ray.training import batches
    from humpback_ray.training.packing import plan_step

    settings = case.settings
    examples = case.tokenized()
    model = AutoModelForCausalLM.from_pretrained(
        case.base_model, dtype=case.dtype, attn_implementation="sdpa"
    ).train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=True,
    )
    capacity = case.placement.micro_batch_tokens
    assert capacity is not None

    def run(step: int) -> dict[str, Any]:
        clock = _Clock()
        batch = batch_indices(step, case.batch_size, examples.num_examples, RANDOM_SEED)
        num_target_tokens = examples.num_target_tokens(batch)
        (plan,) = plan_step(examples.lengths[batch].tolist(), 1, capacity, packed=True)
        total = torch.zeros(())
        for places in plan:
            micro_batch = batches.packed(examples, [batch[place] for place in places], 0)
            with clock.phase("forward"):
                logits = model(
                    input_ids=micro_batch.input_ids, position_ids=micro_batch.position_ids,
                    logits_to_keep=micro_batch.positions, use_cache=False,
                ).logits  # fmt: skip
                loss = cross_entropy(logits[0].float(), micro_batch.labels[0], reduction="sum")
            with clock.phase("backward"):
                (loss / num_target_tokens).backward()
            total += loss.detach()
        with clock.phase("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
        assert math.isfinite(total.item())
        return clock.figures(num_target_tokens, int(examples.lengths[batch].sum()))

    yield {}
    steps = [run(step) for step in range(1, case.num_steps + 1)]
    yield _figures(steps[case.num_warm_up :])


def trl(case: Case, folder: Path, packing: bool) -> Generator[dict[str, Any], Any, None]:
    """TRL's trainer on our token ids; its own optimizer class, order, packing and collator."""
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.utils import logging as transformers_logging
    from trl import SFTConfig, SFTTrainer

    disable_progress_bar()
    transformers_logging.set_verbosity_error()
    settings = case.settings
    examples = case.tokenized()
    rows = []
    for index in range(examples.num_examples):
        ids, first = examples.example(index)
        rows.append(
            {
                "input_ids": ids.tolist(),
                "completion_mask": [0] * first + [1] * (len(ids) - first),
            }
        )
    # As many rows, nearly full ones, as hold the tokens of a batch.
    tokens_of_batch = len(examples.ids) / examples.num_examples * case.batch_size
    per_device = 1 if packing else PADDED_EXAMPLES
    accumulated = (
        round(tokens_of_batch / settings.max_length)
        if packing
        else case.batch_size // PADDED_EXAMPLES
    )
    config = SFTConfig(
        output_dir=str(folder / f"trl-{os.getpid()}"),
        packing=packing,
        completion_only_loss=True,
        max_length=settings.max_length,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulated,
        max_steps=case.num_steps,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        gradient_checkpointing=False,
        bf16=settings.precision == "bf16",
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=RANDOM_SEED,
    )
    steps: list[dict[str, Any]] = []
    counts = {"output_tokens": 0, "tokens": 0}

    class Counting(SFTTrainer):
        """Counts the tokens of the micro-batches it computes."""

        def training_step(self, model: Any, inputs: Any, *others: Any, **more: Any) -> Any:
            # In the loss a label stands for the token before it, so the first of a row has none;
            # it is never a completion's.
            counts["output_tokens"] += int((inputs["labels"] != -100).sum())
            mask = inputs.get("attention_mask")
            counts["tokens"] += inputs["input_ids"].numel() if mask is None else int(mask.sum())
            return super().training_step(model, inputs, *others, **more)

    class Timing(TrainerCallback):
        """A step lasts from the end of the one before, so its data is in it."""

        def __init__(self) -> None:
            self._began = time.perf_counter()

        def on_step_end(self, *others: Any, **more: Any) -> None:
            now = time.perf_counter()
            steps.append({"seconds": now - self._began, **counts})
            counts.update(output_tokens=0, tokens=0)
            self._began = now

    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(
            case.base_model, dtype=torch.float32, attn_implementation="sdpa"
        ),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(case.base_model),
        callbacks=[Timing()],
    )
    yield {}
    trainer.train()
    assert len(steps) == case.num_steps
    assert trainer.state.epoch < 1, "the end of an epoch would cut a step short"
    yield _figures(steps[case.num_warm_up :])


class _Clock:
    """Seconds of a step and of its phases."""

    def __init__(self) -> None:
        self._phases = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._phases[name] += time.perf_counter() - began

    def figures(self, output_tokens: int, tokens: int) -> dict[str, Any]:
        seconds = time.perf_counter() - self._began
        return {
            "seconds": seconds, "output_tokens": output_tokens, "tokens": tokens, **self._phases
        }  # fmt: skip


def _figures(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates over all counted steps, and means of a step."""
    total = {key: sum(step[key] for step in steps) for key in steps[0]}
    mean = {key: value / len(steps) for key, value in total.items()}
    figures = {
        "value": total["output_tokens"] / total["seconds"],
        "tokens_per_second": total["tokens"] / total["seconds"],
        "seconds_per_step": mean["seconds"],
        "output_tokens_per_step": mean["output_tokens"],
        "tokens_per_step": mean["tokens"],
    }
    if PHASES[0] in mean:
        figures["data_seconds"] = mean["seconds"] - sum(mean[phase] for phase in PHASES)
        figures |= {f"{phase}_seconds": mean[phase] for phase in PHASES}
    return figures


# --- data ---------------------------------------------------------------------------------------


def write_examples(folder: Path, num_examples: int) -> str:
    """Pieces of READMEs of the seed's lengths, as a file of training examples."""
    import pyarrow
    import pyarrow.parquet

    draw = random.Random(RANDOM_SEED)
    text = "\n\n".join(models.texts())
    place = 0

    def piece(mean: float, deviation: float) -> str:
        nonlocal place
        variance = math.log(1 + (deviation / mean) ** 2)
        length = round(draw.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance)))
        start, place = place, (place + max(length, 1)) % (len(text) - 100_000)
        return text[start : start + max(length, 1)].strip() or "-"

    examples = [
        asdict(TrainingExample(f"{at:05}", piece(*INSTRUCTION), TAG, piece(*RESPONSE), Origin.SEED))
        for at in range(num_examples)
    ]
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(examples), folder / "examples.parquet")
    return str(folder)


def create_case(options: Any, folder: Path) -> Case:
    """The model, the examples and the settings of all sides."""
    num_steps = options.warm_up + options.steps
    is_smollm2 = options.size == models.SMOLLM2
    model = models.create_smollm2(folder) if is_smollm2 else models.create(options.size, folder)
    return Case(
        model.location,
        # A batch more than the steps need: TRL's order must not come to its end before them.
        write_examples(folder / "examples", options.batch_size * (num_steps + 1)),
        TrainingSettings(
            dropout=0.0, batch_size=options.batch_size, num_steps=num_steps,
            max_length=options.max_length, precision=options.precision,
        ),
        TrainingPlacement(
            device="cpu", num_workers=1,
            micro_batch_tokens=options.micro_batch_tokens or options.max_length,
        ),
        options.warm_up,
    )  # fmt: skip


# --- comparison ---------------------------------------------------------------------------------


def breakdown(comparison: harness.Comparison) -> Table:
    """A table of a step's seconds by phase; `data` is the time outside of all phases."""
    names = [f"{name}_seconds" for name in ("data", *PHASES)]
    table = Table("side", "data", *PHASES, "step", title="seconds of a step, medians")
    for side in (OURS, BARE):
        runs = comparison.runs[side]
        values = [statistics.median(run[name] for run in runs) for name in names]
        values.append(statistics.median(run["seconds_per_step"] for run in runs))
        table.add_row(side, *(f"{value:.4f}" for value in values))
    return table


def _once(
    function: Callable[..., Generator[dict[str, Any], Any, None]], *arguments: Any
) -> dict[str, Any]:
    side = harness.Side(function, *arguments, environment=ENVIRONMENT)
    side.next()
    figures = side.next()
    side.close()
    return figures


def compare(options: Any, folder: Path) -> list[harness.Comparison]:
    """All sides in turns; ours over each other one, TRL with packing last."""
    case = create_case(options, folder)
    sides: dict[str, tuple[Any, ...]] = {BARE: (bare, case, folder), OURS: (ours, case, folder)}
    if importlib.util.find_spec("trl"):
        sides |= {TRL_PADDED: (trl, case, folder, False), TRL_PACKED: (trl, case, folder, True)}
    else:
        harness.console.print("TRL's sides are left out; to have them: pip install --no-deps trl")
    name, unit = f"training, {options.size}", "output tokens/s"
    measured = harness.Comparison(name, unit, OURS, BARE, GOALS[BARE])
    for _ in range(options.repeats):
        for side, call in sides.items():
            measured.add(side, **_once(*call))
    harness.console.print(breakdown(measured))
    return [
        harness.Comparison(
            f"{name}, ours over {side}", unit, OURS, side, GOALS[side],
            runs={OURS: measured.runs[OURS], side: measured.runs[side]},
        )
        for side in sides
        if side != OURS
    ]  # fmt: skip


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--size", choices=[*models.SHAPES, models.SMOLLM2], default="5M")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="counted")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--batch-size", type=int, default=32, help="examples of a step")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens; of TRL's rows too")
    parser.add_argument(
        "--micro-batch-tokens", type=int, help="ours and the bare loop's; max_length by default"
    )
    options = parser.parse_args()
    with harness.scratch_folder() as folder:
        comparisons = compare(options, folder)
    harness.finish(comparisons, options.json)


if __name__ == "__main__":
    main()
