"""Trainings that are interrupted, moved to other workers, or run out of something."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from humpback_ray.config.settings import TrainingSettings
from humpback_ray.training import export as export_module
from humpback_ray.training import loop
from humpback_ray.training.deepspeed_engine import (
    deepspeed_config,
    export,
    load_model,
    refuse_kernels,
)
from humpback_ray.training.examples import tokenize
from humpback_ray.training.finetune import limit_cleaner_wait
from humpback_ray.training.loss import bad_loss
from humpback_ray.training.mailbox import TrainingMailbox
from humpback_ray.training.records import StepRecord
from humpback_ray.training.task import TrainingJob
from tests.support.training import (
    LORA,
    MAX_LENGTH,
    PLACEMENT,
    SETTINGS,
    make_examples,
    plain_training,
    run,
    task_for,
)

# --- words with the driver ----------------------------------------------------------------------


def test_micro_batches_are_halved_until_one_example_does_not_fit() -> None:
    mailbox = TrainingMailbox(capacity=700, min_capacity=200)
    sizes = []
    for _ in range(3):
        capacity, refusal = mailbox.begin(0)
        assert not refusal
        sizes.append(capacity)
        for _ in range(2):  # both ranks run out of memory
            mailbox.out_of_memory()
    assert sizes == [700, 350, 200]
    assert "zero_stage=3" in mailbox.begin(0)[1]
    _, notices = mailbox.collect()
    assert len(notices) == 2
    assert "700" in notices[0]
    assert "350" in notices[0]


def test_mailbox_after_a_refusal_refuses_every_attempt() -> None:
    mailbox = TrainingMailbox(capacity=700, min_capacity=200)
    mailbox.refuse("a disk filled")
    assert mailbox.begin(0) == (700, "a disk filled")
    assert mailbox.begin(1) == (700, "a disk filled")


def test_kernels_without_their_package_are_refused(base: str, tmp_path: Path) -> None:
    job = job_for(base, tmp_path / "model", zero_stage=1, kernels="liger")
    refusal = refuse_kernels(job)
    if importlib.util.find_spec("liger_kernel"):
        assert refusal == "", "it has kernels for LLaMA"
    else:
        assert "install the gpu extra, or set placement.training.kernels to torch" in refusal
    assert refuse_kernels(job_for(base, tmp_path / "model", zero_stage=1)) == ""


def test_bad_loss_names_nan_and_divergence() -> None:
    assert bad_loss([2.0, 1.5], 0.3) == ""
    assert "step 2" in bad_loss([2.0, float("nan")], 0.3)
    assert "gradient norm inf" in bad_loss([2.0, 1.5], float("inf"))
    assert "diverges" in bad_loss([1.0] * 20 + [3.0] * 20, 0.3)


# --- moved --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("settings", [SETTINGS, LORA], ids=["all weights", "LoRA"])
def test_terminated_training_resumes_on_other_workers(
    base: str, examples: str, tmp_path: Path, settings: TrainingSettings
) -> None:
    """Two workers, then one, then two again, with another ZeRO stage each time."""
    rate = settings.learning_rate / 2
    settings = settings.model_copy(update={"num_steps": 50, "learning_rate": rate})
    losses, _, weights = plain_training(base, make_examples(26), settings)
    seen: list[list[StepRecord]] = []

    def attempt(num_workers: int, zero_stage: int, last_step: int) -> None:
        steps: list[StepRecord] = []
        seen.append(steps)

        def take(step: StepRecord) -> None:
            steps.append(step)
            if step.step == last_step:
                os.kill(os.getpid(), signal.SIGTERM)

        placement = PLACEMENT.model_copy(
            update={"num_workers": num_workers, "zero_stage": zero_stage, "checkpoint_every": 100}
        )
        run(base, examples, tmp_path, settings=settings, placement=placement, on_step=take)

    for num_workers, zero_stage, last_step in ((2, 2, 2), (1, 3, 22)):
        with pytest.raises(SystemExit, match="is saved"):
            attempt(num_workers, zero_stage, last_step)
        assert not (tmp_path / "model" / "config.json").exists()
    num_bytes = sum(file.stat().st_size for file in (tmp_path / "scratch").rglob("*.pt"))
    is_small = num_bytes < Path(base, "model.safetensors").stat().st_size
    assert is_small is bool(settings.lora), "checkpoints hold what is trained"
    attempt(2, 1, 0)

    for before, after in pairwise(seen):
        assert 1 < len(before) < 45, "it ended in the middle"
        assert after[0].step == before[-1].step + 1, "not a step was lost"
    steps = [step for attempt_steps in seen for step in attempt_steps]
    assert [step.step for step in steps] == list(range(1, 51))
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-4)
    assert {step.num_workers for step in steps} == {1, 2}
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(exported[name], weight, atol=2e-4, rtol=1e-4, msg=name)


# --- what runs out ------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_nan_loss_stops_at_once_and_leaves_no_model(
    base: str, examples: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in Path(base).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    steps: list[StepRecord] = []
    placement = PLACEMENT.model_copy(update={"num_workers": 1, "packing": False})
    with pytest.raises(ValueError, match="step 1 has loss nan"):
        run(str(broken), examples, tmp_path, placement=placement, on_step=steps.append)
    assert [step.step for step in steps] == [1]
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_diverging_loss_stops_the_training_and_leaves_no_model(
    base: str, examples: str, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    settings = SETTINGS.model_copy(
        update={"num_steps": 300, "learning_rate": 1.0, "final_learning_rate": 1.0}
    )
    placement = PLACEMENT.model_copy(update={"num_workers": 1, "checkpoint_every": 300})
    with pytest.raises(ValueError, match="the loss diverges"):
        run(base, examples, tmp_path, settings=settings, placement=placement, on_step=steps.append)
    assert 20 < len(steps) < 300
    assert steps[-1].loss > steps[0].loss
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.long
def test_disk_full_during_a_checkpoint_keeps_the_last_one_and_resumes(
    base: str, examples: str, tmp_path: Path
) -> None:
    """The error is one line, the last checkpoint stays, and the resumed curve is the same."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    large, disk = tmp_path / "large", tmp_path / "disk"
    num_bytes = make_large_base(large, base, hidden_size=384, num_layers=4)
    settings = SETTINGS.model_copy(update={"num_steps": 9, "learning_rate": 1e-3})
    losses, _, _ = plain_training(str(large), make_examples(26), settings)
    placement = PLACEMENT.model_copy(update={"checkpoint_every": 3})
    # Of a checkpoint: the first worker's weights, and both workers' optimizers, as if each of the
    # two had the weights; in the temporary folder, and in storage.
    wanted = 2 * (2 * num_bytes + 3 * num_bytes)
    disk.mkdir()
    arguments = {
        "examples": examples, "base": str(large), "output": str(tmp_path / "model"),
        "settings": settings.model_dump(), "disk": str(disk),
        "placement": placement.model_dump(), "wanted": int(1.05 * wanted),
    }  # fmt: skip
    mount = f"mount -t tmpfs -o size={int(1.7 * wanted)} tmpfs {disk}"
    output = tmp_path / "output"
    with output.open("w") as file:
        subprocess.run(
            [*namespace, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-m",
             "tests.support.full_disk", json.dumps(arguments)],
            stdout=file, stderr=subprocess.STDOUT, check=True,
        )  # fmt: skip
    attempts: list[list[tuple[str, Any]]] = []
    for line in output.read_text().splitlines():
        kind, _, content = line.partition(" ")
        if kind == "ATTEMPT":
            attempts.append([])
        elif kind in ("STEP", "ERROR"):
            attempts[-1].append((kind, json.loads(content)))

    for steps, said in zip(attempts, ("a disk filled while", "GiB left"), strict=False):
        kind, (message, num_kept, temporary) = steps.pop()
        assert kind == "ERROR"
        assert said in message
        assert "delete files on that disk" in message
        assert "give the same command again" in message
        assert "\n" not in message
        assert num_kept == 1, "the good one, and nothing half-written beside it"
        assert not [name for name in temporary if name.startswith("humpback-train")]
    numbers = [[step["step"] for _, step in steps] for steps in attempts]
    assert numbers == [[1, 2, 3, 4, 5, 6], [4, 5, 6], [4, 5, 6, 7, 8, 9]]
    for _, step in (pair for steps in attempts for pair in steps):
        assert step["loss"] == pytest.approx(losses[step["step"] - 1], abs=1e-4)
    assert (tmp_path / "model" / "config.json").exists()


def make_large_base(
    folder: Path, base: str, *, hidden_size: int = 768, num_layers: int = 12
) -> int:
    """A model of some size, with `base`'s tokenizer; the bytes of its weights."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers, num_attention_heads=12, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.parameters())


def own_memory(field: str) -> int:
    """Bytes of this process's memory, as the kernel names it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if field in line)


def limit_memory(num_bytes: int, folder: str) -> None:
    """End this process as soon as it has so many bytes more than now; its peak goes to a file.

    Files that are read or written do not count: the kernel takes their pages back when it must.
    """
    before = own_memory("RssAnon")
    peak_file = Path(folder, f"peak-{os.getpid()}")

    def watch() -> None:
        peak = 0
        while True:
            if (more := own_memory("RssAnon") - before) > peak:
                peak = more
                peak_file.write_text(str(peak))
            if peak > num_bytes:
                os._exit(1)
            time.sleep(0.002)

    threading.Thread(target=watch, daemon=True).start()


def _load_and_export(config: dict[str, Any]) -> None:
    """With less memory than the model has weights: load it, write it."""
    job: TrainingJob = config["job"]
    load_model(config["small"], deepspeed_config(config["small"], 2))  # the libraries' own memory
    limit_memory(config["limit"], config["folder"])
    export_module.SHARD_BYTES = 50 * 2**20
    model = load_model(job, deepspeed_config(job, 2))
    export(model, job, ray.train.get_context().get_world_rank())


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_model_larger_than_a_workers_memory_trains_sharded(base: str, tmp_path: Path) -> None:
    num_bytes = make_large_base(tmp_path / "large", base)
    limit = int(0.8 * num_bytes)
    job = job_for(str(tmp_path / "large"), tmp_path / "model", zero_stage=3)
    small = job_for(base, tmp_path / "small", zero_stage=3)
    limit_cleaner_wait()
    TorchTrainer(
        _load_and_export,
        train_loop_config={"job": job, "small": small, "limit": limit, "folder": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=run_config(tmp_path),
    ).fit()
    peaks = [int(file.read_text()) for file in tmp_path.glob("peak-*")]
    assert len(peaks) == 2
    assert all(0.45 * num_bytes < peak <= limit for peak in peaks), (peaks, num_bytes)
    before = load_file(tmp_path / "large" / "model.safetensors")
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 4, "in several files, none of which is large"
    after = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    LlamaForCausalLM.from_pretrained(tmp_path / "model")  # the index is right


def job_for(base: str, output: Path, *, zero_stage: int, **update: Any) -> TrainingJob:
    output.mkdir(exist_ok=True)
    placement = PLACEMENT.model_copy(update={"checkpoint_every": 100, **update})
    task = task_for(base, settings=SETTINGS.model_copy(update={"num_steps": 3}))
    tokens = placement.micro_batch_tokens or MAX_LENGTH
    return TrainingJob(task, placement, str(output), zero_stage, tokens, 8, 3, output.name)


def run_config(folder: Path, **options: Any) -> Any:
    # What is freed goes back at once: the tests count what is held, not what malloc keeps.
    variables = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    return ray.train.RunConfig(
        storage_path=str(folder / "scratch"),
        worker_runtime_env={"env_vars": variables},
        **options,
    )


def _train_with_little_memory(config: dict[str, Any]) -> dict[str, Any]:
    limit = own_memory("VmData") + config["limit"]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    return loop.train(config)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_exhausted_memory_halves_the_micro_batches(
    base: str, examples: str, tmp_path: Path
) -> None:
    tokenized = tokenize(examples, AutoTokenizer.from_pretrained(base), MAX_LENGTH)[0]
    # Of so many tokens the mask alone takes 0.4 GB, and of half as many 0.1 GB.
    job = job_for(base, tmp_path / "model", zero_stage=1, num_workers=1, micro_batch_tokens=20_000)
    mailbox = ray.remote(TrainingMailbox).options(num_cpus=0).remote(20_000, MAX_LENGTH)
    limit_cleaner_wait()
    result = TorchTrainer(
        _train_with_little_memory,
        train_loop_config={
            "job": job, "mailbox": mailbox, "limit": 700 * 2**20,
            "examples": ray.put(tokenized),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=run_config(tmp_path, failure_config=ray.train.FailureConfig(max_failures=4)),
    ).fit()  # fmt: skip
    records, notices = ray.get(mailbox.collect.remote())
    assert len(notices) >= 1
    assert "20000 tokens: they are 10000" in notices[0]
    assert [record.step for record in records] == [1, 2, 3]
    assert "stopped" not in result.return_value
    assert (tmp_path / "model" / "config.json").exists()
