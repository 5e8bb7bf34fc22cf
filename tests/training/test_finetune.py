"""Finetuning against an independent loop, through kills, and on bad input; real tiny LLaMAs."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2.api import data_parallel_trainer
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    T5Config,
)

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import LoraSettings, TrainingSettings
from humpback_ray.method.schedule import (
    learning_rate,
)
from humpback_ray.models.problems import set_dropout
from humpback_ray.rows import Origin, TrainingExample
from humpback_ray.training import batches, loop
from humpback_ray.training.batches import TokenizedSet
from humpback_ray.training.deepspeed_engine import attention
from humpback_ray.training.examples import tokenize
from humpback_ray.training.finetune import (
    TrainingResult,
    choose_zero_and_micro_batch,
    idle_workers_line,
    limit_cleaner_wait,
    plan_job,
    run_name,
)
from humpback_ray.training.loss import completion_loss
from humpback_ray.training.mailbox import TrainingMailbox
from humpback_ray.training.records import StepRecord, StepSpeed
from humpback_ray.training.task import BaseModel, TrainingJob
from tests.support.training import (
    LORA,
    MAX_LENGTH,
    PLACEMENT,
    SEED,
    SETTINGS,
    make_examples,
    plain_training,
    run,
    task_for,
    write_examples,
)

# --- tokens and masks ---------------------------------------------------------------------------


def test_loss_covers_only_completion_and_end_token(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized, num_truncated, num_dropped = tokenize(examples, tokenizer, MAX_LENGTH)
    assert (tokenized.num_examples, num_truncated, num_dropped) == (25, 1, 1)
    by_id = sorted(make_examples(26), key=lambda e: e.example_id)[:-1]

    num_targets = num_padded = 0
    for indices in ([0, 1, 2], [3], [24, 5, 6, 7]):
        batch = batches.padded(tokenized, indices, pad_token_id=1)
        assert batch.attention_mask is not None
        row = batches.packed(tokenized, indices, pad_token_id=1)
        assert row.attention_mask is None
        start = 0
        for b, index in enumerate(indices):
            example = by_id[index]
            labels = batch.labels[b]
            target = labels[labels != batches.IGNORED].tolist()
            end = "</s>" if example.example_id != "x-cut" else ""
            text = tokenizer.decode(target)
            assert text == (example.completion + end)[: len(text)]
            assert end or len(text) < len(example.completion)
            assert text.endswith(end)
            # Label j is the token after position j, so the id at position + 1 is the label.
            places = batch.positions[labels != batches.IGNORED] + 1
            assert batch.input_ids[b, places].tolist() == target
            length = int(batch.attention_mask[b].sum())
            assert places[-1] == length - 1
            assert tokenizer.decode(batch.input_ids[b, : places[0]]).endswith("### Answer\n")
            # The same in a row that all of them share.
            assert row.input_ids[0, start : start + length].tolist() == (
                batch.input_ids[b, :length].tolist()
            )
            assert row.position_ids[0, start : start + length].tolist() == list(range(length))
            mine = (row.positions >= start) & (row.positions < start + length)
            assert row.labels[0, mine].tolist() == target
            assert (row.positions[mine] - start + 1).tolist() == places.tolist()
            start += length
            num_targets += len(target)
            num_padded += batch.input_ids.shape[1] - length
        assert row.input_ids.shape == (1, start), "no padding"
        assert batch.labels.ne(batches.IGNORED).any(dim=0).all(), "no logits without a loss"
        assert row.labels.ne(batches.IGNORED).all()
    assert num_targets == tokenized.num_target_tokens([0, 1, 2, 3, 24, 5, 6, 7]) > 0
    assert num_padded > 0


def test_packed_loss_equals_the_sum_of_single_losses(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized, _, _ = tokenize(examples, tokenizer, MAX_LENGTH)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa")
    engine = _OneProcess(model)
    indices = [0, 3, 5, 24]
    with torch.no_grad():
        single = [
            completion_loss(engine, batches.packed(tokenized, [index], 0)) for index in indices
        ]
        for collate in (batches.packed, batches.padded):
            together = completion_loss(engine, collate(tokenized, indices, 0))
            assert together.item() == pytest.approx(sum(map(float, single)), rel=1e-5)
        nothing = completion_loss(engine, batches.packed(tokenized, [], 0))
        assert nothing.item() == 0.0
    assert len({round(float(loss), 3) for loss in single}) == 4


class _OneProcess:
    """The members of a DeepSpeed engine that the loop uses, around a model of this process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.module, self.device = model, torch.device("cpu")
        self.eval, self.train = model.eval, model.train

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_model_that_mixes_packed_examples_is_refused(base: str) -> None:
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa")
    assert loop.refuse_leak(_OneProcess(model)) == ""

    class Mixing(_OneProcess):
        def __call__(self, **inputs: Any) -> Any:
            # Positions that never begin again are one long example.
            length = inputs["position_ids"].shape[1]
            return super().__call__(**inputs | {"position_ids": torch.arange(length)[None]})

    assert "packing=false" in loop.refuse_leak(Mixing(model))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_that_a_model_does_not_read_is_refused(base: str, dropout: float) -> None:
    config = AutoConfig.from_pretrained(base)
    set_dropout(config, dropout)
    model = LlamaForCausalLM.from_pretrained(base, config=config, dtype=torch.float32).train()
    assert loop.refuse_dropout(_OneProcess(model), dropout) == ""
    deaf = _OneProcess(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).train())
    refusal = loop.refuse_dropout(deaf, dropout)
    assert ("dropout of 0.5 has no effect on it: set dropout to 0" in refusal) is (dropout > 0)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("gpu", "bf16", "flash_attention_2"), ("gpu", "fp32", "sdpa"), ("cpu", "bf16", "sdpa"),
    ],
)  # fmt: skip
def test_flash_attention_is_chosen_for_16_bits_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, expected: str
) -> None:
    # A machine with a GPU and flash-attn.
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    assert attention(device, precision) == expected


def test_long_examples_are_cut_or_dropped(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    cut = tokenize(examples, tokenizer, MAX_LENGTH)
    whole = tokenize(examples, tokenizer, MAX_LENGTH, cut=False)
    assert (cut[0].num_examples, *cut[1:]) == (25, 1, 1)
    assert (whole[0].num_examples, *whole[1:]) == (24, 0, 2)


def test_plain_text_without_begin_token_has_no_loss_on_its_first_token(
    base: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.bos_token = None
    rows = [
        TrainingExample("a", "", "", "the day", Origin.CORPUS),
        TrainingExample("b", "", "", "", Origin.CORPUS),
    ]
    tokenized, _, num_dropped = tokenize(write_examples(tmp_path, rows), tokenizer, MAX_LENGTH)
    assert num_dropped == 1, "a lone end token cannot be predicted from anything"
    assert tokenized.num_target_tokens() == len(tokenized.ids) - 1 > 0


def test_example_order_does_not_depend_on_files(base: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = make_examples(20)
    one = write_examples(tmp_path / "one", rows)
    many = write_examples(tmp_path / "many", rows[::-1], num_files=4)
    first, second = (tokenize(folder, tokenizer, MAX_LENGTH)[0] for folder in (one, many))
    assert first.num_examples == 19
    assert first.ids.tolist() == second.ids.tolist()
    assert first.starts.tolist() == second.starts.tolist()


def test_checkpoints_resume_only_the_same_training(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized = tokenize(examples, tokenizer, MAX_LENGTH)[0]
    shorter = tokenize(examples, tokenizer, MAX_LENGTH - 1)[0]
    task = task_for(base)
    mine = run_name(task, tokenized, "scratch")
    assert mine == run_name(task, tokenize(examples, tokenizer, MAX_LENGTH)[0], "scratch")
    longer = SETTINGS.model_copy(update={"num_steps": 11})
    of_revision = replace(task, base=BaseModel(base, revision="v2"))
    others = {
        run_name(task, shorter, "scratch"),
        run_name(task_for(base, settings=longer), tokenized, "scratch"),
        run_name(task_for(base, random_seed=SEED + 1), tokenized, "scratch"),
        run_name(task_for(base + "2"), tokenized, "scratch"),
        run_name(of_revision, tokenized, "scratch"),
    }
    assert len(others) == 5
    assert mine not in others


def test_ray_train_has_the_private_guard_whose_wait_is_limited() -> None:
    """A Ray without this name, or with another parameter, fails here and not by slow runs."""
    limit_cleaner_wait()
    limit_cleaner_wait()
    cleaner = data_parallel_trainer.PlacementGroupCleanerCallback
    assert cleaner.keywords == {"stop_timeout": 1.0}
    assert isinstance(cleaner.func, type), "replaced once"
    assert "stop_timeout" in inspect.signature(cleaner.func).parameters


# --- training -----------------------------------------------------------------------------------

# Ways to lay the same steps on two workers. Each must give what one plain process gives.
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO-1, packed, one pass": {"zero_stage": 1, "micro_batch_tokens": 2000},
    "ZeRO-2, packed, accumulated": {"zero_stage": 2, "micro_batch_tokens": MAX_LENGTH},
    "ZeRO-3, packed, accumulated, checkpointing": {
        "zero_stage": 3, "micro_batch_tokens": MAX_LENGTH, "gradient_checkpointing": True,
    },
    "ZeRO-1, padded, accumulated": {
        "zero_stage": 1, "micro_batch_tokens": 2 * MAX_LENGTH, "packing": False,
    },
    "ZeRO-3, padded": {"zero_stage": 3, "micro_batch_tokens": 2000, "packing": False},
}  # fmt: skip


def _train_all(config: dict[str, Any]) -> None:
    """Several trainings, one after the other, in one group of workers: starting it takes long."""
    for job, mailbox in zip(config["jobs"], config["mailboxes"], strict=True):
        loop.train({"job": job, "mailbox": mailbox, "examples": config["examples"]})


def train_all(
    base: str,
    examples: str,
    folder: Path,
    num_workers: int,
    layouts: dict[str, dict[str, Any]],
    settings: TrainingSettings = SETTINGS,
) -> dict[str, list[StepRecord]]:
    """Steps of the same training in several layouts; the models go to `folder`."""
    tokenized = tokenize(examples, AutoTokenizer.from_pretrained(base), MAX_LENGTH)[0]
    jobs, mailboxes = [], []
    for name, update in layouts.items():
        placement = PLACEMENT.model_copy(
            update={"num_workers": num_workers, "checkpoint_every": 100, **update}
        )
        task = task_for(base, examples, settings)
        batch_size, num_steps = settings.batch_size or 8, settings.num_steps or 10
        zero_stage, tokens = choose_zero_and_micro_batch(task, placement, batch_size)
        output = folder / name
        output.mkdir()
        jobs.append(
            TrainingJob(
                task, placement, str(output), zero_stage, tokens, batch_size, num_steps,
                f"all-{len(jobs)}",
            )
        )  # fmt: skip
        mailboxes.append(ray.remote(TrainingMailbox).options(num_cpus=0).remote(tokens, MAX_LENGTH))
    limit_cleaner_wait()
    TorchTrainer(
        _train_all,
        train_loop_config={"jobs": jobs, "mailboxes": mailboxes, "examples": ray.put(tokenized)},
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers),
        run_config=ray.train.RunConfig(
            storage_path=str(folder / "scratch"),
            worker_runtime_env={"env_vars": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}},
        ),
    ).fit()
    return {
        name: ray.get(mailbox.collect.remote())[0]
        for name, mailbox in zip(layouts, mailboxes, strict=True)
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_layout_trains_as_one_plain_process(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    losses, norms, weights = plain
    assert losses[-1] < losses[0] - 1, "the model must have learned for this to mean anything"
    assert max(norms) > 2 * 0.5, "clipping must be in play"

    found = train_all(base, examples, tmp_path, 2, LAYOUTS)

    for name, steps in found.items():
        assert [s.step for s in steps] == list(range(1, 11)), name
        assert [s.loss for s in steps] == pytest.approx(losses, abs=1e-4), name
        assert [s.gradient_norm for s in steps] == pytest.approx(norms, rel=1e-3), name
        exported = load_file(tmp_path / name / "model.safetensors")
        assert exported.keys() == weights.keys()
        for tensor, weight in weights.items():
            torch.testing.assert_close(exported[tensor], weight, atol=2e-4, rtol=1e-4, msg=name)
    passes = {name: {s.num_micro_batches for s in steps} for name, steps in found.items()}
    assert passes["ZeRO-1, packed, one pass"] == {1}
    assert max(passes["ZeRO-2, packed, accumulated"]) > 1
    assert max(passes["ZeRO-1, padded, accumulated"]) > 1


OFFLOADED: dict[str, dict[str, Any]] = {
    "ZeRO-2, optimizer": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "ZeRO-3, all": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
}


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_states_offloaded_to_the_cpu_train_as_one_plain_process(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    """Covers DeepSpeed's CPU Adam, which DeepSpeed compiles at its first use."""
    for name, steps in train_all(base, examples, tmp_path, 2, OFFLOADED).items():
        assert [s.loss for s in steps] == pytest.approx(plain[0], abs=1e-4), name
        assert [s.gradient_norm for s in steps] == pytest.approx(plain[1], rel=1e-3), name


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "names", [list(LAYOUTS)[2:3], list(LAYOUTS)[:2]], ids=["ZeRO-3", "ZeRO-1 and 2"]
)
def test_lora_trains_as_one_plain_peft_process(
    base: str, examples: str, tmp_path: Path, names: list[str]
) -> None:
    losses, norms, weights = plain_training(base, make_examples(26), LORA)
    assert losses[-1] < losses[0] - 1, "the adapters must have learned for this to mean anything"
    before = load_file(Path(base, "model.safetensors"))
    found = train_all(base, examples, tmp_path, 2, {name: LAYOUTS[name] for name in names}, LORA)
    assert list(found) == names
    for name, steps in found.items():
        assert [s.loss for s in steps] == pytest.approx(losses, abs=1e-4), name
        assert [s.gradient_norm for s in steps] == pytest.approx(norms, rel=1e-3), name
        exported = load_file(tmp_path / name / "model.safetensors")
        assert {n: (t.shape, t.dtype) for n, t in exported.items()} == {
            n: (t.shape, t.dtype) for n, t in before.items()
        }
        for tensor, weight in weights.items():
            torch.testing.assert_close(exported[tensor], weight, atol=2e-4, rtol=1e-4, msg=name)
        changed = {n.rpartition(".")[0] for n, t in exported.items() if not t.equal(before[n])}
        assert len(changed) == 2 * 7, "the linear layers of both blocks, and nothing else"


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_workers", [1, 3, 8])
def test_any_number_of_workers_trains_as_one_plain_process(
    base: str, examples: str, plain: Any, tmp_path: Path, num_workers: int
) -> None:
    layouts = {name: LAYOUTS[name] for name in list(LAYOUTS)[:3]}
    for name, steps in train_all(base, examples, tmp_path, num_workers, layouts).items():
        assert [s.loss for s in steps] == pytest.approx(plain[0], abs=1e-4), name
        assert [s.gradient_norm for s in steps] == pytest.approx(plain[1], rel=1e-3), name


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_examples_of_a_batch_train_as_one_plain_process(
    base: str, examples: str, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 2, "num_steps": 4})
    losses, norms, weights = plain_training(base, make_examples(26), settings)
    layouts = {name: LAYOUTS[name] for name in list(LAYOUTS)[:3]}
    layouts["ZeRO-3, padded"] = LAYOUTS["ZeRO-3, padded"]
    for name, steps in train_all(base, examples, tmp_path, 3, layouts, settings).items():
        assert [s.loss for s in steps] == pytest.approx(losses, abs=1e-4), name
        assert [s.gradient_norm for s in steps] == pytest.approx(norms, rel=1e-3), name
        exported = load_file(tmp_path / name / "model.safetensors")
        for tensor, weight in weights.items():
            torch.testing.assert_close(exported[tensor], weight, atol=2e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("recipe", "num_pairs", "batch_size", "line"),
    [
        ("llama-33b", 2_999, 8, "8 examples for 16 training workers: 8 of them"),
        ("llama-65b", 2_999, 8, "8 examples for 32 training workers: 24 of them"),
        ("llama-65b", 3_000, 32, ""),
    ],
)
def test_shipped_recipe_with_few_pairs_trains_the_papers_batch_on_all_workers(
    recipe: str, num_pairs: int, batch_size: int, line: str
) -> None:
    loaded = load_recipe(recipe, ["placement.training.zero_stage=3",
                                  "placement.training.micro_batch_tokens=2048"])  # fmt: skip
    ids = numpy.arange(2 * num_pairs, dtype=numpy.int32)
    starts = numpy.arange(0, 2 * num_pairs + 1, 2, dtype=numpy.int64)
    pairs = TokenizedSet(ids, starts, numpy.ones(num_pairs, dtype=numpy.int32))
    task = task_for("base", settings=loaded.settings.forward_training)
    job = plan_job(task, pairs, loaded.placement.training, "out", "scratch")
    assert job.batch_size == batch_size
    assert job.placement == loaded.placement.training, "ZeRO has all workers"
    assert line in idle_workers_line(job)
    assert bool(line) == bool(idle_workers_line(job))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_finished_training_leaves_a_model_and_its_figures(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    placement = PLACEMENT.model_copy(update={"num_workers": 1})
    result = run(base, examples, tmp_path, placement=placement, on_step=steps.append)
    rates = [learning_rate(step, 10, SETTINGS) for step in range(1, 11)]
    assert [s.learning_rate for s in steps] == pytest.approx(rates)
    for step in steps:
        assert 0 < step.speed.mfu < 1
        assert 0 < step.speed.output_tokens_per_second < step.speed.tokens_per_second
        speed = step.speed
        parts = (speed.forward_seconds, speed.backward_seconds, speed.optimizer_seconds)
        assert 0 < sum(parts) < speed.seconds
        assert step.speed.peak_memory_gib > 0.1
    assert result == TrainingResult(
        num_examples=25,
        num_truncated=1,
        num_dropped=1,
        num_tokens=result.num_tokens,
        num_target_tokens=result.num_target_tokens,
        num_steps=10,
        batch_size=8,
        first_loss=steps[0].loss,
        last_loss=steps[-1].loss,
    )
    assert [s.loss for s in steps] == pytest.approx(plain[0], abs=1e-4)
    assert not (tmp_path / "scratch").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.attention_dropout == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_killed_worker_resumes_on_the_same_curve(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    killed: list[int] = []
    # Ray Train's controller takes a reported checkpoint at its next poll, and a worker's next
    # report waits for that: at step 7 the checkpoint of step 4 is certain, that of step 6 likely.
    placement = PLACEMENT.model_copy(update={"checkpoint_every": 2})

    def kill_once(step: StepRecord) -> None:
        steps.append(step)
        if step.step >= 7 and not killed:
            # Descendants of this process alone: other clusters run on the same machine.
            worker = next(
                process
                for process in psutil.Process().children(recursive=True)
                if any("RayTrainWorker" in word for word in process.cmdline())
            )
            killed.append(worker.pid)
            worker.send_signal(signal.SIGKILL)

    result = run(base, examples, tmp_path, placement=placement, on_step=kill_once)
    losses, _, weights = plain

    assert len(killed) == 1
    numbers = [s.step for s in steps]
    restart = next(i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1])
    assert numbers[restart] in (5, 7, 9), "right after a checkpoint, not from the start"
    for step in steps:
        assert step.loss == pytest.approx(losses[step.step - 1], abs=1e-4)
    assert set(numbers) == set(range(1, 11))
    assert result.first_loss == pytest.approx(losses[0], abs=1e-4)
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(exported[name], weight, atol=2e-4, rtol=1e-4, msg=name)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_killed_driver_resumes_when_called_again(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    # Dropout on: a resumed run must draw the same.
    settings = SETTINGS.model_copy(update={"dropout": 0.2, "num_steps": 30})
    placement = PLACEMENT.model_copy(update={"num_workers": 1, "checkpoint_every": 5})
    arguments = {
        "base": base,
        "examples": examples,
        "folder": str(tmp_path),
        "settings": settings.model_dump(),
        "placement": placement.model_dump(),
    }
    first = _steps_until_killed(arguments, last_step=13)
    assert not (tmp_path / "model" / "config.json").exists()
    assert abs(first[0].loss - plain[0][0]) > 1e-3, "dropout must be in play"

    second: list[StepRecord] = []
    seldom = placement.model_copy(update={"checkpoint_every": 100})  # may change between attempts
    result = run(
        base, examples, tmp_path, settings=settings, placement=seldom, on_step=second.append
    )

    start = second[0].step
    assert start % 5 == 1, "right after a checkpoint"
    assert 6 <= start <= len(first)
    assert [s.step for s in second] == list(range(start, 31))
    undisturbed = {s.step: s for s in first}
    again = [s for s in second if s.step in undisturbed]
    assert len(again) > 0, "steps after the checkpoint were seen twice"
    for step in again:
        for key in ("loss", "gradient_norm", "learning_rate"):
            before = getattr(undisturbed[step.step], key)
            assert getattr(step, key) == pytest.approx(before, abs=1e-4)
    assert result.first_loss == pytest.approx(first[0].loss, abs=1e-6)
    assert not (tmp_path / "scratch").exists()


def _steps_until_killed(arguments: dict[str, Any], last_step: int) -> list[StepRecord]:
    """Run `finetune` in a child process and SIGKILL that process after `last_step`."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.support.training_driver", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    steps = []
    try:
        for line in driver.stdout:
            if line.startswith("STEP"):
                figures = json.loads(line.removeprefix("STEP"))
                steps.append(StepRecord(**figures | {"speed": StepSpeed(**figures["speed"])}))
                if steps[-1].step >= last_step:
                    break
    finally:
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        # Its Ray processes end with it; kill any that does not, by its id.
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].step < arguments["settings"]["num_steps"], "killed too late to mean anything"
    return steps


# --- bad input ----------------------------------------------------------------------------------


def _copy_of(base: str, folder: Path, *, without: str = "-") -> str:
    folder.mkdir()
    for path in Path(base).iterdir():
        if without not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    return str(folder)


def test_bad_training_input_is_a_user_error(base: str, examples: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no-such-model.*must be a folder"):
        run(str(tmp_path / "no-such-model"), examples, tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer"):
        run(_copy_of(base, tmp_path / "no-tokenizer", without="tokenizer"), examples, tmp_path)
    with pytest.raises(ValueError, match="safetensors"):
        run(_copy_of(base, tmp_path / "no-weights", without="safetensors"), examples, tmp_path)
    endless = _copy_of(base, tmp_path / "endless")
    config = json.loads(Path(endless, "tokenizer_config.json").read_text())
    config.pop("eos_token")
    Path(endless, "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no end token"):
        run(endless, examples, tmp_path)

    translator = _copy_of(base, tmp_path / "translator")
    T5Config().save_pretrained(translator)
    with pytest.raises(ValueError, match=r"a t5 model.*causal"):
        run(translator, examples, tmp_path)

    os.makedirs(tmp_path / "empty")
    with pytest.raises(ValueError, match="no Parquet file"):
        run(base, str(tmp_path / "empty"), tmp_path)
    with pytest.raises(ValueError, match=r"all 26 examples.*max_length"):
        run(base, examples, tmp_path, settings=SETTINGS.model_copy(update={"max_length": 4}))
    other = tmp_path / "other"
    other.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["x"]}), other / "0.parquet")
    with pytest.raises(ValueError, match="no column 'completion'"):
        run(base, str(other), tmp_path)

    small = PLACEMENT.model_copy(update={"micro_batch_tokens": MAX_LENGTH - 1})
    with pytest.raises(ValueError, match="micro-batch of 159 tokens does not hold"):
        run(base, examples, tmp_path, placement=small)
    for target, why in (("attention", "no linear layer"), ("embed_tokens", "no linear layer")):
        adapters = SETTINGS.model_copy(update={"lora": LoraSettings(target_modules=(target,))})
        with pytest.raises(ValueError, match=rf"'{target}', which is {why}.*q_proj.*all-linear"):
            run(base, examples, tmp_path, settings=adapters)
    with pytest.raises(ValueError, match=r"for GPUs: set placement\.training\.kernels to torch"):
        TrainingPlacement(device="cpu", kernels="liger")
    with pytest.raises(ValueError, match=r"zero_stage 2.*to 3"):
        TrainingPlacement(zero_stage=2, offload_parameters="cpu")
    assert not (tmp_path / "model").exists()
