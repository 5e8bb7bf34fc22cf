"""Finetuning against an independent loop, through kills, and on bad input; real tiny LLaMAs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from humpback_ray.config import TrainingPlacement, TrainingSettings
from humpback_ray.engines import train_loop
from humpback_ray.engines.deepspeed_train import TrainingResult, finetune, run_name, tokenize
from humpback_ray.records import Origin, TrainingExample
from humpback_ray.text.schedule import batch_indices, epoch_order, learning_rate, schedule
from humpback_ray.text.tokens import example_ids

TAG = "Answer in the style of an AI Assistant."
MAX_LENGTH = 160
SETTINGS = TrainingSettings(
    learning_rate=2e-3,
    final_learning_rate=5e-4,
    warmup_steps=2,
    dropout=0.0,
    max_gradient_norm=0.5,
    batch_size=8,
    num_steps=10,
    max_length=MAX_LENGTH,
    precision="fp32",
)
PLACEMENT = TrainingPlacement(
    device="cpu", num_workers=2, zero_stage=2, micro_batch_size=3, checkpoint_every=4
)
SEED = 7


def make_base(folder: Path, *, dtype: torch.dtype = torch.float32, tied: bool = False) -> str:
    """A tiny LLaMA with a byte-level BPE tokenizer, as a folder. Matrices of 128 x 1024 are large
    enough that ZeRO-3 really partitions them (its persistence threshold is 100,000)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["### Request ### Answer, the question of the day"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=128,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return str(folder)


def make_examples(num_examples: int) -> list[TrainingExample]:
    """Examples of very unequal target lengths; one prompt is too long, one completion is cut."""
    draw = random.Random(0)
    examples = [
        TrainingExample(
            example_id=f"e{i:03}",
            prompt=f"question {'why ' * draw.randint(0, 8)}{i}",
            tag=TAG,
            completion=" ".join(str(draw.randint(0, 99)) for _ in range(draw.choice([1, 4, 20]))),
            origin=Origin.SEED,
        )
        for i in range(num_examples - 2)
    ]
    long = "endless " * 200
    return [
        *examples,
        TrainingExample("x-cut", "say much", TAG, long, Origin.WEB),
        TrainingExample("y-dropped", long, TAG, "short", Origin.WEB),
    ]


def write_examples(folder: Path, examples: list[TrainingExample], num_files: int = 1) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(num_files):
        rows = [asdict(example) for example in examples[k::num_files]]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{k}.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_examples(tmp_path_factory.mktemp("examples"), make_examples(26), num_files=2)


def run(
    base: str,
    examples: str,
    folder: Path,
    *,
    settings: TrainingSettings = SETTINGS,
    placement: TrainingPlacement = PLACEMENT,
    on_step: Any = None,
) -> TrainingResult:
    return finetune(
        examples=examples,
        base_model=base,
        output=str(folder / "model"),
        settings=settings,
        placement=placement,
        random_seed=SEED,
        chat_tags=(TAG,),
        scratch_folder=str(folder / "scratch"),
        on_step=on_step,
    )


@pytest.fixture(scope="module")
def plain(base: str) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    return plain_training(base, make_examples(26), SETTINGS)


def plain_training(
    base: str, examples: list[TrainingExample], settings: TrainingSettings
) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """The same finetuning in one process with nothing but transformers and torch.

    One example at a time without padding, full logits, no DeepSpeed, no project code but the
    tokens and the order.

    Returns:
        Loss and gradient norm of each step, and the final weights.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    tokenized = [
        example_ids(tokenizer, e.prompt, e.tag, e.completion, MAX_LENGTH)
        for e in sorted(examples, key=lambda e: e.example_id)
    ]
    kept = [t for t in tokenized if t is not None]
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(settings.adam_beta1, settings.adam_beta2),
    )
    losses, norms = [], []
    num_steps, batch_size = settings.num_steps or 0, settings.batch_size or 0
    for step in range(1, num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, settings)
        batch = [kept[i] for i in batch_indices(step, batch_size, len(kept), SEED)]
        num_tokens = sum(t.num_target for t in batch)
        total = torch.zeros(())
        for t in batch:
            logits = model(input_ids=torch.tensor([t.ids])).logits[0]
            predicted = logits[t.num_prompt - 1 : -1].log_softmax(-1)
            target = torch.tensor(t.ids[t.num_prompt :])
            total = total - predicted.gather(1, target[:, None]).sum()
        (total / num_tokens).backward()
        norms.append(
            float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm))
        )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item() / num_tokens)
    return losses, norms, {name: t.detach() for name, t in model.state_dict().items()}


# --- pure arithmetic ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [
        (1, (8, 30)),
        (100, (8, 30)),
        (450, (8, 165)),
        (800, (8, 300)),
        (1_600, (8, 600)),
        (2_400, (8, 550)),
        (3_200, (32, 500)),
        (6_400, (32, 600)),
        (12_800, (32, 600)),
        (19_200, (32, 900)),
        (25_600, (32, 1_200)),
        (51_200, (32, 1_600)),
        (500_000, (32, 1_600)),
    ],
)
def test_schedule_follows_the_papers_table(num_examples: int, expected: tuple[int, int]) -> None:
    assert schedule(num_examples, TrainingSettings()) == expected


def test_schedule_takes_what_the_settings_fix() -> None:
    assert schedule(2_999, TrainingSettings())[0] == 8
    assert schedule(3_000, TrainingSettings())[0] == 32
    assert schedule(100, TrainingSettings(batch_size=6)) == (6, 30)
    assert schedule(100, TrainingSettings(num_steps=5)) == (8, 5)


def test_batches_walk_through_whole_epochs() -> None:
    num_examples, batch_size = 10, 4
    seen = [i for step in range(1, 6) for i in batch_indices(step, batch_size, num_examples, SEED)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:], "every epoch has an order of its own"
    assert tuple(seen[10:]) == epoch_order(1, num_examples, SEED)
    assert epoch_order(0, num_examples, SEED) != epoch_order(0, num_examples, SEED + 1)
    # A batch may be larger than the set: it then sees examples more than once.
    assert sorted(batch_indices(1, 6, 3, SEED)) == [0, 0, 1, 1, 2, 2]


def test_learning_rate_is_linear_between_its_ends() -> None:
    settings = TrainingSettings(learning_rate=1e-5, final_learning_rate=9e-6)
    rates = [learning_rate(step, 11, settings) for step in range(1, 12)]
    assert rates[0] == 1e-5
    assert rates[-1] == pytest.approx(9e-6)
    assert rates[5] == pytest.approx(9.5e-6)
    warm = settings.model_copy(update={"warmup_steps": 4})
    assert [learning_rate(step, 11, warm) for step in (1, 2, 4)] == pytest.approx(
        [2.5e-6, 5e-6, 1e-5]
    )
    assert learning_rate(11, 11, warm) == pytest.approx(9e-6)
    assert learning_rate(1, 1, settings) == 1e-5


def test_any_micro_batch_size_divides_the_share() -> None:
    assert [train_loop.largest_micro_batch(4, limit) for limit in (1, 2, 3, 4, 9)] == [
        1,
        2,
        2,
        4,
        4,
    ]


# --- tokens and masks ---------------------------------------------------------------------------


def test_loss_is_on_the_completion_and_its_end_alone(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized, num_truncated, num_dropped = tokenize(examples, tokenizer, MAX_LENGTH)
    assert (tokenized.num_examples, num_truncated, num_dropped) == (25, 1, 1)
    by_id = sorted(make_examples(26), key=lambda e: e.example_id)[:-1]

    num_targets = num_padded = 0
    for indices in ([0, 1, 2], [3], [24, 5, 6, 7]):
        batch = train_loop.collate(tokenized, indices, pad_token_id=1)
        for row, index in enumerate(indices):
            example = by_id[index]
            labels = batch.labels[row]
            target = labels[labels != train_loop.IGNORED].tolist()
            end = "</s>" if example.example_id != "x-cut" else ""
            text = tokenizer.decode(target)
            assert text == (example.completion + end)[: len(text)]
            assert end or len(text) < len(example.completion)
            assert text.endswith(end)
            # Label j is the token after position j, so the id at position + 1 is the label.
            places = batch.positions[labels != train_loop.IGNORED] + 1
            assert batch.input_ids[row, places].tolist() == target
            length = int(batch.attention_mask[row].sum())
            assert places[-1] == length - 1
            assert tokenizer.decode(batch.input_ids[row, : places[0]]).endswith("### Answer\n")
            num_targets += len(target)
            num_padded += batch.input_ids.shape[1] - length
        assert batch.labels.ne(train_loop.IGNORED).any(dim=0).all(), "no logits without a loss"
    assert num_targets == tokenized.num_target_tokens([0, 1, 2, 3, 24, 5, 6, 7]) > 0
    assert num_padded > 0


def test_plain_text_without_begin_token_has_no_loss_on_its_first(base: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.bos_token = None
    rows = [
        TrainingExample("a", "", "", "the day", Origin.CORPUS),
        TrainingExample("b", "", "", "", Origin.CORPUS),
    ]
    tokenized, _, num_dropped = tokenize(write_examples(tmp_path, rows), tokenizer, MAX_LENGTH)
    assert num_dropped == 1, "a lone end token cannot be predicted from anything"
    assert tokenized.num_target_tokens() == len(tokenized.ids) - 1 > 0


def test_order_does_not_depend_on_files(base: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = make_examples(20)
    one = write_examples(tmp_path / "one", rows)
    many = write_examples(tmp_path / "many", rows[::-1], num_files=4)
    first, second = (tokenize(folder, tokenizer, MAX_LENGTH)[0] for folder in (one, many))
    assert first.num_examples == 19
    assert first.ids.tolist() == second.ids.tolist()
    assert first.starts.tolist() == second.starts.tolist()


def test_checkpoints_are_resumed_only_by_the_same_training(base: str, examples: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized = tokenize(examples, tokenizer, MAX_LENGTH)[0]
    shorter = tokenize(examples, tokenizer, MAX_LENGTH - 1)[0]
    mine = run_name(tokenized, SETTINGS, PLACEMENT, base, SEED)
    other_steps = SETTINGS.model_copy(update={"num_steps": 11})
    assert mine == run_name(
        tokenized,
        SETTINGS,
        PLACEMENT.model_copy(update={"micro_batch_size": 1, "checkpoint_every": 9}),
        base,
        SEED,
    )
    others = {
        run_name(shorter, SETTINGS, PLACEMENT, base, SEED),
        run_name(tokenized, other_steps, PLACEMENT, base, SEED),
        run_name(tokenized, SETTINGS, PLACEMENT, base, SEED + 1),
        run_name(tokenized, SETTINGS, PLACEMENT, base + "2", SEED),
        *(
            run_name(tokenized, SETTINGS, PLACEMENT.model_copy(update=update), base, SEED)
            for update in ({"num_workers": 4}, {"zero_stage": 3}, {"offload_optimizer": True})
        ),
    }
    assert len(others) == 7
    assert mine not in others


# --- training -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("zero_stage", "checkpointing"), [(3, True)])
def test_workers_train_as_one_plain_process(
    base: str, examples: str, plain: Any, tmp_path: Path, zero_stage: Any, checkpointing: bool
) -> None:
    steps: list[dict[str, Any]] = []
    placement = PLACEMENT.model_copy(
        update={"zero_stage": zero_stage, "gradient_checkpointing": checkpointing}
    )
    result = run(base, examples, tmp_path, placement=placement, on_step=steps.append)
    losses, norms, weights = plain

    assert [s["step"] for s in steps] == list(range(1, 11))
    assert [s["loss"] for s in steps] == pytest.approx(losses, abs=1e-4)
    assert [s["gradient_norm"] for s in steps] == pytest.approx(norms, rel=1e-3)
    rates = [learning_rate(step, 10, SETTINGS) for step in range(1, 11)]
    assert [s["learning_rate"] for s in steps] == pytest.approx(rates)
    assert losses[-1] < losses[0] - 1, "the model must have learned for this to mean anything"
    assert max(norms) > 2 * 0.5, "clipping must be in play"
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert exported.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(exported[name], weight, atol=2e-4, rtol=1e-4, msg=name)
    assert result == TrainingResult(
        num_examples=25,
        num_truncated=1,
        num_dropped=1,
        num_tokens=result.num_tokens,
        num_target_tokens=result.num_target_tokens,
        num_steps=10,
        batch_size=8,
        first_loss=steps[0]["loss"],
        last_loss=steps[-1]["loss"],
    )
    assert not (tmp_path / "scratch").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.attention_dropout == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_killed_worker_resumes_on_the_same_curve(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    steps: list[dict[str, Any]] = []
    killed: list[int] = []
    # Ray Train's controller takes a reported checkpoint at its next poll, and a worker's next
    # report waits for that: at step 7 the checkpoint of step 4 is certain, that of step 6 likely.
    placement = PLACEMENT.model_copy(update={"checkpoint_every": 2})

    def kill_once(step: dict[str, Any]) -> None:
        steps.append(step)
        if step["step"] >= 7 and not killed:
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
    numbers = [s["step"] for s in steps]
    restart = next(i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1])
    assert numbers[restart] in (5, 7, 9), "right after a checkpoint, not from the start"
    for step in steps:
        assert step["loss"] == pytest.approx(losses[step["step"] - 1], abs=1e-4)
    assert set(numbers) == set(range(1, 11))
    assert result.first_loss == pytest.approx(losses[0], abs=1e-4)
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(exported[name], weight, atol=2e-4, rtol=1e-4, msg=name)


DRIVER = """
import json, sys
from pathlib import Path
import ray
from humpback_ray.config import TrainingPlacement, TrainingSettings
from humpback_ray.engines.deepspeed_train import finetune
arguments = json.loads(sys.argv[1])
ray.init(num_cpus=8, include_dashboard=False, address="local", log_to_driver=False)
finetune(
    settings=TrainingSettings(**arguments.pop("settings")),
    placement=TrainingPlacement(**arguments.pop("placement")),
    chat_tags=tuple(arguments.pop("chat_tags")),
    on_step=lambda step: print("STEP", json.dumps(step), flush=True),
    **arguments,
)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_killed_driver_resumes_when_called_again(
    base: str, examples: str, plain: Any, tmp_path: Path
) -> None:
    # Dropout on: a resumed run must draw the same.
    settings = SETTINGS.model_copy(update={"dropout": 0.2, "num_steps": 30})
    placement = PLACEMENT.model_copy(update={"num_workers": 1, "checkpoint_every": 5})
    arguments = {
        "examples": examples,
        "base_model": base,
        "output": str(tmp_path / "model"),
        "settings": settings.model_dump(),
        "placement": placement.model_dump(),
        "random_seed": SEED,
        "chat_tags": [TAG],
        "scratch_folder": str(tmp_path / "scratch"),
    }
    first = _steps_until_killed(arguments, last_step=13)
    assert not (tmp_path / "model" / "config.json").exists()
    assert abs(first[0]["loss"] - plain[0][0]) > 1e-3, "dropout must be in play"

    second: list[dict[str, Any]] = []
    seldom = placement.model_copy(update={"checkpoint_every": 100})  # may change between attempts
    result = run(
        base, examples, tmp_path, settings=settings, placement=seldom, on_step=second.append
    )

    start = second[0]["step"]
    assert start % 5 == 1, "right after a checkpoint"
    assert 6 <= start <= len(first)
    assert [s["step"] for s in second] == list(range(start, 31))
    undisturbed = {s["step"]: s for s in first}
    again = [s for s in second if s["step"] in undisturbed]
    assert len(again) > 0, "steps after the checkpoint were seen twice"
    for step in again:
        for key in ("loss", "gradient_norm", "learning_rate"):
            assert step[key] == pytest.approx(undisturbed[step["step"]][key], abs=1e-4)
    assert result.first_loss == pytest.approx(first[0]["loss"], abs=1e-6)
    assert not (tmp_path / "scratch").exists()


def _steps_until_killed(arguments: dict[str, Any], last_step: int) -> list[dict[str, Any]]:
    """Run `finetune` in a process of its own and SIGKILL that process after `last_step`."""
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    steps = []
    try:
        for line in driver.stdout:
            if line.startswith("STEP"):
                steps.append(json.loads(line.removeprefix("STEP")))
                if steps[-1]["step"] >= last_step:
                    break
    finally:
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        # Its Ray processes end with it; any that does not is ended by its own id.
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()
    assert [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["step"] < arguments["settings"]["num_steps"], (
        "killed too late to mean anything"
    )
    return steps


# --- bad input ----------------------------------------------------------------------------------


def _copy_of(base: str, folder: Path, *, without: str = "-") -> str:
    folder.mkdir()
    for path in Path(base).iterdir():
        if without not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    return str(folder)


def test_bad_input_is_explained(base: str, examples: str, tmp_path: Path) -> None:
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

    os.makedirs(tmp_path / "empty")
    with pytest.raises(ValueError, match="no Parquet file"):
        run(base, str(tmp_path / "empty"), tmp_path)
    with pytest.raises(ValueError, match=r"all 26 examples.*max_length"):
        run(base, examples, tmp_path, settings=SETTINGS.model_copy(update={"max_length": 4}))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column 'completion'"):
        run(base, str(tmp_path / "other.parquet"), tmp_path)

    with pytest.raises(ValueError, match=r"batch of 8 .* 3 training workers"):
        run(base, examples, tmp_path, placement=PLACEMENT.model_copy(update={"num_workers": 3}))
    with pytest.raises(ValueError, match=r"zero_stage 2.*to 3"):
        run(
            base,
            examples,
            tmp_path,
            placement=PLACEMENT.model_copy(update={"offload_parameters": True}),
        )
    assert not (tmp_path / "model").exists()
