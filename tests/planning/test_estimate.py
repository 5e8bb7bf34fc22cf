"""Fits and hours of the estimate, against published figures and arithmetic by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from humpback_ray import pipeline
from humpback_ray.cli import app
from humpback_ray.config.recipe import load_recipe, recipe_names
from humpback_ray.config.settings import LoraSettings, SelectionSettings
from humpback_ray.evaluation.games import Contestants
from humpback_ray.method import prompts
from humpback_ray.planning import estimate
from humpback_ray.sizing import time
from humpback_ray.sizing.architecture import (
    PUBLISHED,
    architecture_of,
    find_architecture,
    read_architecture,
)
from humpback_ray.sizing.hardware import GIB, GPUS, parse_hardware
from humpback_ray.sizing.memory import (
    MIN_SEQUENCES,
    check_engine_fits,
    fit_training,
    place_engine,
    smallest_engine,
    state_bytes,
)
from humpback_ray.sizing.time import GenerationWork
from humpback_ray.stages.rate import Rate
from tests.support.records import record

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("size", "billions"),
    # arXiv 2302.13971, Table 2; Llama 2 70B as the hub counts its weights.
    [("7", 6.7), ("13", 13.0), ("33", 32.5), ("65", 65.2), ("70", 68.98)],
)
def test_parameters_of_published_models_equal_their_papers(size, billions):
    assert PUBLISHED[size].num_parameters == pytest.approx(billions * 1e9, rel=0.01)


def test_weight_and_cache_bytes_equal_arithmetic_by_hand():
    seven, seventy = PUBLISHED["7"], PUBLISHED["70"]
    # keys and values x layers x heads x head size x 2 bytes
    assert seven.kv_bytes_per_token("bfloat16") == 2 * 32 * 32 * 128 * 2
    assert seventy.kv_bytes_per_token("auto") == 2 * 80 * 8 * 128 * 2
    assert seven.kv_bytes_per_token("float32") == 2 * seven.kv_bytes_per_token("fp8")
    assert seven.weight_bytes("bfloat16") == 2 * 6_738_415_616
    # Both embeddings and the last norm stay in 16 bits.
    assert seven.weight_bytes("fp8") == 6_738_415_616 + 2 * 32_000 * 4096 + 4096


def test_architecture_is_read_from_a_model_folder(tmp_path):
    content = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu",
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = find_architecture(str(tmp_path))
    # per layer: q and o of 64 x 128, k and v of 64 x 64, three of 64 x 128, two norms
    layer = 2 * 64 * 128 + 2 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert found.num_parameters == 2 * layer + 100 * 64 + 64
    assert read_architecture(content | {"num_local_experts": 8}) is None
    assert read_architecture(content | {"hidden_act": "gelu"}) is None
    assert read_architecture({"n_embd": 64}) is None


@pytest.mark.parametrize(
    ("model", "size"),
    [("huggyllama/llama-30b", "33"), ("meta-llama/Llama-2-70b-hf", "70"), ("org/llama-7b", "7"),
     ("meta-llama/Meta-Llama-3-70B", None), ("org/other", None)],
)  # fmt: skip
def test_architectures_are_found_by_hub_id(model, size):
    assert find_architecture(model) == (PUBLISHED[size] if size else None)


def test_shipped_recipes_have_an_architecture():
    names = recipe_names()
    counts = {n: architecture_of(load_recipe(n)).num_parameters for n in names}
    assert len(counts) >= 4
    assert 4e6 < counts["tiny"] < 6e6


# --- what fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "hardware", "nodes", "layout"),
    [
        ("7", "8xA100-80", 1, (1, 1)),
        ("33", "8xA100-80", 1, (2, 1)),
        ("33", "8xH200", 1, (1, 1)),
        ("65", "8xA100-80", 1, (4, 1)),
        ("65", "8xA100-40", 1, (8, 1)),
        ("7", "8xL4", 1, (1, 1)),
        # 52 heads do not divide by 8, so more than four GPUs are a pipeline across nodes.
        ("33", "8xL4", 4, (4, 2)),
    ],
)
def test_smallest_engine_has_the_fewest_gpus_that_fit(size, hardware, nodes, layout):
    fit = engine(size, hardware, nodes)
    assert (fit.tensor_parallel_size, fit.pipeline_parallel_size) == layout
    assert fit.num_kv_tokens >= MIN_SEQUENCES * 2048


def engine(size: str, hardware: str, nodes: int = 1, dtype: str = "auto"):
    machines = parse_hardware(hardware, nodes)
    return smallest_engine(
        PUBLISHED[size], machines, dtype=dtype, context_length=2048, gpu_memory_utilization=0.9
    )


def check(size: str, memory_gib: float, **changes):
    arguments = {
        "dtype": "bfloat16", "context_length": 2048, "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1, "gpu_memory_utilization": 0.9,
        "gpu_memory": int(memory_gib * GIB),
    }  # fmt: skip
    check_engine_fits(PUBLISHED[size], **(arguments | changes))


def test_engine_that_does_not_fit_names_ways_out_that_work():
    with pytest.raises(ValueError, match="does not fit") as error:
        check("33", 79.1, gpu_memory_utilization=0.8)
    line = str(error.value)
    assert "\n" not in line
    assert "weights 60.6 GiB, KV cache of one sequence of 2048 tokens 3.0 GiB" in line
    assert "63.3 GiB (0.8 of 79.1 GiB)" in line
    tensor = int(re.search(r"tensor_parallel_size to (\d+)", line)[1])
    length = int(re.search(r"context_length to at most (\d+)", line)[1])
    assert "fp8 weights (they fit)" in line
    assert tensor == 2
    check("33", 79.1, gpu_memory_utilization=0.8, tensor_parallel_size=tensor)
    check("33", 79.1, gpu_memory_utilization=0.8, context_length=length)
    check("33", 79.1, gpu_memory_utilization=0.8, dtype="fp8")
    with pytest.raises(ValueError, match="does not fit"):
        check("33", 79.1, gpu_memory_utilization=0.8, context_length=length + 1)


def test_engine_whose_weights_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit") as error:
        check("65", 22)
    line = str(error.value)
    assert "tensor_parallel_size to 8" in line
    assert "the weights alone do not fit" in line
    memory = float(re.search(r"GPUs of at least ([\d.]+) GiB", line)[1])
    check("65", memory + 0.1)
    with pytest.raises(ValueError, match="pipeline_parallel_size higher"):
        check("70", 1)


def test_engine_whose_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide the model's 52 attention heads: set it "
                       "to one of 1, 2, 4"):  # fmt: skip
        check("33", 79.1, tensor_parallel_size=8)


def test_training_states_equal_arithmetic_by_hand():
    architecture, count = PUBLISHED["7"], 6_738_415_616
    assert state_bytes(architecture, 1, 8) == 8 * count + 12 * count / 8
    assert state_bytes(architecture, 2, 8) == 2 * count + 18 * count / 8
    assert state_bytes(architecture, 3, 8) == 4 * 32_000 * 4096 + 18 * count / 8


def test_adapter_parameters_equal_arithmetic_by_hand():
    architecture, count = PUBLISHED["7"], 6_738_415_616
    # per layer: four matrices of 4096 x 4096, three of 4096 x 11008
    trained = 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    everything = LoraSettings(rank=16)
    assert architecture.num_trained(everything) == trained
    assert architecture.num_trained(LoraSettings(rank=1, target_modules=("q_proj",))) == 32 * 8192
    frozen = 2 * (count - trained)
    for stage, own in ((1, 8 + 12 / 8), (2, 2 + 18 / 8)):
        found = state_bytes(architecture, stage, 8, everything)
        assert found == pytest.approx(frozen + own * trained)
    assert state_bytes(architecture, 3, 8, everything) == pytest.approx(
        4 * 32_000 * 4096 + (frozen + 18 * trained) / 8
    )


def test_adapters_fit_where_all_weights_do_not():
    whole, adapters = (
        stages("settings.base.model=huggyllama/llama-13b", *update, hardware="1xA100-80")
        for update in ((), ("settings.forward_training.lora.rank=16",))
    )
    assert whole["iter-1/model"].hours is None
    assert "ZeRO-1 x 1 GPU" in adapters["iter-1/model"].layout
    assert adapters["backward/model"].hours is None, "the forward settings change another training"


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("size", ["7", "13", "33", "65", "70"])
def test_training_states_equal_deepspeeds_estimators(size, num_nodes):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as stage3
    from deepspeed.runtime.zero.stage_1_and_2 import (
        estimate_zero2_model_states_mem_needs as stage2,
    )

    architecture = PUBLISHED[size]
    count = architecture.num_parameters
    largest = architecture.hidden_size * max(32_000, architecture.intermediate_size)
    assert state_bytes(architecture, 2, 8 * num_nodes) == pytest.approx(
        stage2(count, num_gpus_per_node=8, num_nodes=num_nodes, cpu_offload=False)[1]
    )
    assert state_bytes(architecture, 3, 8 * num_nodes) == pytest.approx(
        stage3(count, largest, num_gpus_per_node=8, num_nodes=num_nodes, cpu_offload=False,
               cpu_offload_params=False)[1]
    )  # fmt: skip


def training(size: str, hardware: str, nodes: int, batch_size: int):
    """The chosen layout and the seconds of a step of full 2,048-token sequences."""
    machines, architecture = parse_hardware(hardware, nodes), PUBLISHED[size]
    fit = fit_training(
        architecture, machines, batch_size=batch_size, max_length=2048, gradient_checkpointing=True
    )
    return fit, time.step_seconds(
        architecture, machines, fit, batch_size=batch_size, sequence_length=2048
    )


@pytest.mark.parametrize(
    ("size", "hardware", "nodes", "batch_size", "zero_stage", "workers"),
    [
        ("7", "8xA100-80", 1, 32, 1, 8),
        ("7", "8xA100-40", 1, 32, 2, 8),
        ("33", "8xH100", 2, 32, 3, 16),
        ("65", "8xH100", 4, 32, 3, 32),
        ("33", "8xH100", 2, 8, 3, 16),  # workers beyond the batch hold states
        ("65", "8xH100", 4, 8, 3, 32),
        ("65", "8xH100", 8, 32, 3, 64),
        ("7", "6xA100-80", 1, 32, 1, 6),
    ],
)
def test_fit_training_takes_the_lowest_zero_stage_that_fits(
    size, hardware, nodes, batch_size, zero_stage, workers
):
    fit, _ = training(size, hardware, nodes, batch_size)
    assert (fit.zero_stage, fit.num_workers) == (zero_stage, workers)
    assert fit.needed_bytes <= parse_hardware(hardware).gpu.memory


def test_training_that_does_not_fit_needs_more_than_its_gpu():
    fit, _ = training("65", "8xA100-40", 1, 32)
    assert fit.needed_bytes > GPUS["A100-40"].memory


# --- how long, against published figures ----------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "hardware", "nodes", "batch_size", "tokens_per_second"),
    # LLM Foundry, scripts/train/benchmarking/README.md: full sharding, sequences of 2,048 tokens.
    [
        ("7", "8xA100-80", 1, 96, 37_130),
        ("13", "8xA100-80", 1, 48, 18_097),
        ("33", "8xA100-80", 1, 504, 7_330),
        ("70", "8xA100-80", 8, 2048, 26_274),
        ("70", "8xA100-40", 8, 128, 17_672),
        ("7", "8xH100", 1, 48, 85_144),
        ("33", "8xH100", 1, 504, 16_022),
        ("70", "8xH100", 8, 2048, 66_523),
    ],
)
def test_training_rates_are_within_1_5_of_measured_ones(
    size, hardware, nodes, batch_size, tokens_per_second
):
    _, seconds = training(size, hardware, nodes, batch_size)
    factor = batch_size * 2048 / seconds / tokens_per_second
    assert 1 / 1.5 < factor < 1.5


@pytest.mark.parametrize(
    ("size", "nodes", "num_examples", "hours"),
    # arXiv 2408.04614: 12.8k examples on 8 A100, 51.2k on 64 A100.
    [("7", 1, 12_800, 4), ("70", 8, 51_200, 16)],
)
def test_training_times_are_within_1_5_of_published_ones(size, nodes, num_examples, hours):
    """The source gives no epochs, lengths or batch.

    LIMA's are taken, whose finetuning the paper follows: 15 epochs of 2,048 tokens; a batch of 64,
    so that every GPU has a share. That gives 4.2 and 20.9 hours.
    """
    _, seconds = training(size, "8xA100-80", nodes, 64)
    assert 1 / 1.5 < 15 * num_examples / 64 * seconds / 3600 / hours < 1.5


@pytest.mark.parametrize(
    ("size", "gpus", "requests_per_second"),
    # vLLM 0.4.3 (its pull request 5046) on ShareGPT: 246 prompt and 235 output tokens for each.
    [("7", 1, 15.62), ("70", 4, 10.15)],
)
def test_generation_rates_are_within_20_percent_of_measured_ones(size, gpus, requests_per_second):
    gpu = GPUS["A100-80"]
    fit = place_engine(PUBLISHED[size], "auto", gpus, 1, 0.9 * gpu.memory)
    work = GenerationWork(10_000, 246, 235)
    seconds = time.generation_seconds(PUBLISHED[size], gpu, fit, num_engines=1, work=work)
    assert 10_000 / seconds == pytest.approx(requests_per_second, rel=0.2)


def test_generation_takes_half_as_long_on_twice_the_engines():
    fit, work = engine("7", "8xH100"), GenerationWork(100_000, 500, 90)

    def seconds(num_engines: int, work: GenerationWork) -> float:
        return time.generation_seconds(
            PUBLISHED["7"], GPUS["H100"], fit, num_engines=num_engines, work=work
        )

    assert seconds(8, work) == pytest.approx(seconds(4, work) / 2)
    assert seconds(8, GenerationWork(100_000, 500, 1)) < seconds(8, work) / 1.5


# --- a recipe's stages ----------------------------------------------------------------------------


def stages(*overrides: str, records=None, rows=None, hardware="8xH100", nodes=1):
    recipe = load_recipe("llama-7b", list(overrides))
    machines, declared = parse_hardware(hardware, nodes), pipeline.stages_of(recipe)
    found = estimate.estimate_stages(recipe, declared, records or {}, machines, rows)
    return {stage.path: stage for stage in found}


def test_estimate_has_every_gpu_stage_of_a_recipe():
    found = stages()
    declared = pipeline.stages_of(load_recipe("llama-7b"))
    assert list(found) == [
        stage.path for stage in declared if stage.uses_engines or stage.uses_workers
    ]
    # Both iterations rate the same candidates.
    assert found["iter-1/rated"].hours == found["iter-2/rated"].hours
    assert found["candidates"].layout == "8 engines x TP1"
    assert "ZeRO-1 x 8 GPUs" in found["iter-1/model"].layout
    text = stages("settings.rating.method=text")
    assert text["iter-1/rated"].hours > 2 * found["iter-1/rated"].hours
    assert text["candidates"] == found["candidates"]


# Tokens of the five grades' rubric up to the pair, and of the whole prompt without the pair, under
# LLaMA's SentencePiece model of 32,000 pieces.
RUBRIC_OF_LLAMA, PROMPT_OF_LLAMA = 267, 300


def rated(*overrides: str) -> Rate:
    """The first rating stage of llama-7b."""
    stages = pipeline.stages_of(load_recipe("llama-7b", list(overrides)))
    return next(stage for stage in stages if isinstance(stage, Rate))


def test_rubric_has_the_tokens_of_the_prompt_that_is_sent(tmp_path):
    assert estimate.rubric_tokens(rated()) == pytest.approx(RUBRIC_OF_LLAMA, rel=0.05)
    template = prompts.RUBRICS["five_grades"]
    whole = prompts.render(prompts.rating_prompt(template, "", "", reasoning=False))
    num_tokens = len(whole) / estimate.PROMPT_CHARACTERS_PER_TOKEN
    assert num_tokens == pytest.approx(PROMPT_OF_LLAMA, rel=0.05)
    (tmp_path / "mine.txt").write_text("Rate it.\n\n$instruction\n$response\n$answer_format\n")
    mine = rated(f"settings.prompts.rating_template={tmp_path}/mine.txt")
    assert estimate.rubric_tokens(mine) < 10
    additive = estimate.rubric_tokens(rated("settings.rating.rubric=additive"))
    assert additive == pytest.approx(259, rel=0.05)


def test_characters_per_token_follow_the_family_of_the_tokenizer():
    seven = PUBLISHED["7"]
    assert seven.vocabulary_size == 32_000
    assert seven.characters_per_token == 3.2
    # As LLaMA-3's: the same texts have fewer tokens.
    assert replace(seven, vocabulary_size=128_256).characters_per_token == 4.0


@pytest.mark.parametrize(("name", "nodes"), [("llama-7b", 1), ("llama-33b", 2), ("llama-65b", 4)])
def test_description_of_a_recipe_names_the_zero_stage_that_its_fit_picks(name, nodes):
    recipe = load_recipe(name)
    hardware = parse_hardware("8xH100", nodes)
    stages = {
        fit_training(
            architecture_of(recipe), hardware, batch_size=batch_size,
            max_length=recipe.settings.forward_training.max_length,
            gradient_checkpointing=recipe.placement.training.gradient_checkpointing,
        ).zero_stage
        for batch_size in (8, 32)
    }  # fmt: skip
    assert {int(n) for n in re.findall(r"ZeRO-(\d)", recipe.description)} == stages


def test_estimate_takes_the_runs_rows_before_the_papers():
    records = {
        "segments": record(9_000, outcomes={"kept": 5_000, "too_short": 4_000}),
        "forward-0/examples": record(3_200),
        "iter-1/examples": record(3_200 + 48_000),
        "backward/model": record(3_200),
    }
    found = stages(records=records)
    assert found["backward/model"] == estimate.StageEstimate("backward/model", "done", "-", 0.0)
    assert found["candidates"] == stages(rows=5_000)["candidates"]
    assert found["candidates"].hours < stages()["candidates"].hours
    assert "1600 steps" in found["iter-1/model"].layout  # Table 18 at 51,200 examples
    assert stages(rows=20_000, records=records)["candidates"] == stages(rows=20_000)["candidates"]


def test_filter_costs_the_sample_and_saves_what_it_drops():
    on = ("settings.prefilter={num_rated: 40000, share: 0.1}",)
    whole, filtered = stages(rows=1_000_000), stages(*on, rows=1_000_000)
    # Engines see the sample once more than a run of as many segments, and a tenth after the cut.
    sample, tenth = stages(rows=40_000), stages(rows=100_000)
    for found, of_candidates, of_ratings in (
        ("prefilter", sample["candidates"], sample["iter-1/rated"]),
        ("", tenth["candidates"], tenth["iter-1/rated"]),
    ):
        assert filtered[f"{found}/candidates".lstrip("/")].hours == of_candidates.hours
        assert filtered[f"{found or 'iter-2'}/rated"].hours == of_ratings.hours
    assert filtered["iter-1/model"].hours == tenth["iter-1/model"].hours
    assert filtered["candidates"].hours < whole["candidates"].hours / 3


def test_note_on_a_filter_says_what_it_costs_and_whether_it_saves_anything():
    def note(num_rows: int, *overrides: str) -> str:
        declared = pipeline.stages_of(load_recipe("llama-7b", list(overrides)))
        return estimate.filter_note(declared, {}, num_rows)

    on = "settings.prefilter={num_rated: 40000, share: 0.1}"
    assert note(1_000_000) == ""
    assert "40,000 segments of a sample and 100,000 promising ones in place of 1,000,000" in note(
        1_000_000, on
    )
    assert "costs more than it saves" not in note(1_000_000, on)
    assert "costs more than it saves" in note(44_000, on)
    assert "40,000 segments of a sample" not in note(30_000, on)  # there are no more


def test_estimate_of_stages_that_do_not_fit_has_no_hours():
    found = stages("settings.base.model=huggyllama/llama-65b", hardware="1xA10G")
    assert found["candidates"].hours is None
    assert found["iter-1/model"].hours is None
    assert found["iter-1/model"].fits.startswith("does not fit: ZeRO-3 of batches of 32 on 1 GPU")


@pytest.mark.parametrize(
    ("size", "fewest"),
    # Nodes of 8xA100-40, 8xA100-80 and 8xH100 on which a model is finetuned. A batch of 32 examples
    # leaves half of 64 GPUs without one, and their memory is needed.
    [("7", (1, 1, 1)), ("13", (1, 1, 1)), ("30", (4, 1, 1)), ("65", (8, 2, 2)), ("70", (8, 4, 4))],
)  # fmt: skip
def test_estimate_on_every_hardware_fits_or_says_so(size, fewest):
    """More nodes never fit less and never take longer."""
    model = f"settings.base.model=huggyllama/llama-{size}b"
    for hardware, first in zip(("8xA100-40", "8xA100-80", "8xH100"), fewest, strict=True):
        hours = []
        for num_nodes in (1, 2, 4, 8):
            training = stages(model, hardware=hardware, nodes=num_nodes)["iter-2/model"]
            if num_nodes < first:
                assert training.hours is None
                assert re.match(r"does not fit: ZeRO-3 .* needs [\d.]+ GiB of", training.fits)
                continue
            assert re.match(r"states [\d.]+ \+ activations [\d.]+ of", training.fits)
            assert re.match(r"ZeRO-[123] x \d+ GPUs, micro-batch [\d,]+ tokens", training.layout)
            hours.append(training.hours)
        assert hours == sorted(hours, reverse=True)
        assert all(value > 0 for value in hours)
        assert bool(hours) is (first is not None)


# --- the command ----------------------------------------------------------------------------------


def estimated(tmp_path, *arguments: str, recipe: str = "llama-7b"):
    return RUNNER.invoke(app, ["estimate", recipe, "--run", str(tmp_path / "run"), *arguments])


def test_estimate_command_prints_hours_and_money(tmp_path):
    result = estimated(tmp_path, "--hardware", "8xh100", "--nodes", "4", "--price", "2.5/gpu-hour")
    assert result.exit_code == 0, result.output
    assert "llama-7b on 4 x 8 H100" in result.stdout
    (total,) = (line for line in result.stdout.splitlines() if "total" in line)
    hours, money = (cell.strip() for cell in re.split("[│┃]", total)[4:6])
    assert float(money) == pytest.approx(float(hours) * 32 * 2.5, rel=0.02)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hardware", "8xFoo"), "unknown GPU 'Foo'; write COUNTxGPU"),
        (("--hardware", "8xA100"), "did you mean A100-40 or A100-80?"),
        (("--hardware", "H100"), "write COUNTxGPU for one node, for example 8xH100"),
        (("--hardware", "0xH100"), "write COUNTxGPU"),
        (("--hardware", "8xH100", "--nodes", "0"), "at least one node"),
        (("--hardware", "8xH100", "--price", "abc"), "for example 2.5/gpu-hour"),
        (("--hardware", "8xH100", "--price", "-1/gpu-hour"), "for example 2.5/gpu-hour"),
        (("--hardware", "8xH100", "--price", "nan"), "for example 2.5/gpu-hour"),
        (("--hardware", "8xH100", "--price", "2.5/day"), "for example 2.5/gpu-hour"),
        (("--hardware", "8xH100", "--rows", "0"), "at least one segment"),
        (("--hardware", "8xH100", "--set", "settings.base.model=org/other"), "config.json"),
    ],
)
def test_estimate_mistakes_are_user_errors(tmp_path, arguments, message):
    result = estimated(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert message in line


def test_estimate_command_prints_the_note_on_a_filter(tmp_path):
    result = estimated(tmp_path, "--hardware", "8xH100", "--set=settings.prefilter={}")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stdout.split())
    assert "engines see 50,000 segments of a sample and 50,213 promising ones" in printed


def judgement(judge: str):
    recipe = load_recipe("llama-7b", [f"settings.evaluation.judge={judge}"])
    stages = pipeline.stages_of(recipe)
    found = estimate.estimate_stages(recipe, stages, {}, parse_hardware("8xH100", 1))
    assert found[-1].path == stages[-1].path
    return found[-1], found[-2]


def test_judgement_on_engines_costs_hours_and_behind_an_endpoint_none():
    by_base, evaluation = judgement("{model: base}")
    assert by_base.hours is not None
    assert by_base.hours > 0
    assert by_base.layout == evaluation.layout
    by_endpoint, _ = judgement("{endpoint: {url: 'http://h/v1', model: j}}")
    assert by_endpoint.hours == 0.0
    assert by_endpoint.fits == "judged elsewhere, at the endpoint's price"


def test_every_model_that_plays_counts_in_the_games_of_a_judgement(tmp_path):
    outputs = json.dumps([{"instruction": "Why?", "output": "So."}])
    for name in ("davinci", "lima", "guanaco"):
        (tmp_path / f"{name}.json").write_text(outputs)
    judge = "settings.evaluation.judge={model: base}"
    more = [
        f"settings.evaluation.reference={tmp_path}/davinci.json",
        f"settings.evaluation.compared={tmp_path}/[gl]*.json",
        "settings.evaluation.models=[{name: other, model: org/other}]",
    ]
    own = ("base", "M_0", "M_1", "M_2")
    for overrides, rivals, reference in (
        ([], (), "M_0"), (more, ("davinci", "guanaco", "lima", "other"), "davinci")
    ):  # fmt: skip
        *_, stage = pipeline.stages_of(load_recipe("llama-7b", [judge, *overrides]))
        assert estimate.num_games(stage) == len(Contestants(own, rivals, reference).games())


@pytest.mark.parametrize(
    ("selection", "number"),
    [
        ({"method": "all"}, 1000),
        ({"method": "all", "max_pairs": 30}, 30),
        ({"method": "share", "share": 0.1, "max_pairs": 300}, 100),
        ({"method": "best", "num_best": 2000}, 1000),
        ({"method": "best", "num_best": 50}, 50),
    ],
)
def test_selection_is_estimated_by_its_method_and_its_limit(selection, number):
    assert estimate.num_selected(SelectionSettings(**selection), 1000) == number
