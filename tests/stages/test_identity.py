"""A stage's identity names what its result depends on: every field that it reads, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import LongPromptSettings, RatingSettings, SamplingSettings
from humpback_ray.execution.stage import Context, Source, Stage
from humpback_ray.rows import Candidate, Finish, SeedPair, Segment, Task, TaskKind
from humpback_ray.serving import vllm_engine
from humpback_ray.serving.endpoint import try_endpoint
from humpback_ray.serving.requests import Generation, ServedModel, load_tokenizer
from humpback_ray.stages.evaluate import Evaluate
from tests.support.chat_server import chat_server, limits
from tests.support.generation import augment_stage, candidate, context, rate_stage, segment
from tests.support.scripted_engine import ScriptedEngine
from tests.support.spying import spied

ROUTED = LongPromptSettings(policy="route_long", context_length=4096)
# They change where a result comes from or whether it is enough, and no row of it.
NOT_PART_OF_A_RESULT = {
    "path", "trust_remote_code", "settings.min_scored_share", "settings.endpoint",
    "settings.endpoint.url", "sampling.max_cut_share",
}  # fmt: skip


# --- which fields are read ------------------------------------------------------------------------


def hashed(stage: Stage) -> set[str]:
    """The paths of the values that a stage's identity names, and of its inputs."""
    settings = dict(stage.identity["settings"])
    for name in stage.wording():
        settings.pop(name)
    section = getattr(stage, "settings", None)
    in_section = set(type(section).model_fields) if section else set()
    leaves = _leaves(settings)
    prefixed = {f"settings.{leaf}" if leaf.split(".")[0] in in_section else leaf for leaf in leaves}
    return prefixed | set(stage.inputs)


def _leaves(content: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in content.items():
        inside = isinstance(value, Mapping)
        found |= _leaves(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}"}
    return found


def read_by(stage: Stage, where: Context, ask: Callable[[Any], None]) -> tuple[set[str], set[str]]:
    """Paths of the fields that `run` and, in this process, its callbacks read; and the hashed ones.

    Args:
        stage: with its inputs on disk.
        where: its context, with a scripted engine.
        ask: calls the callbacks of the spied stage.
    """
    names = hashed(stage)
    read: set[str] = set()
    spy = spied(stage, read)
    spy.run(where)
    ask(spy)
    sections = {path.rpartition(".")[0] for path in names | read} - {""}
    return read - sections - {"settings"}, names


GENERATED = Generation("Score: 3", Finish.STOP, 9, 3, 0, (-1.0,) * 5, (-1.0,) * 5)


@pytest.fixture
def where(tmp_path) -> Callable[..., Context]:
    """The context of a stage in a run folder with a name."""

    def make(name: str) -> Context:
        folder = tmp_path / name / "stage"
        folder.mkdir(parents=True)
        return context(folder, make_engine=ScriptedEngine)

    return make


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_augmentation_reads_what_it_hashes(where, model_folder, tokenizer):
    place = where("augment")
    folder = Path(place.run_folder)
    tables.write_rows(
        str(folder / "segments"), [segment(n, f"Text {n}.") for n in range(4)], Segment
    )
    stage = augment_stage(folder, model_folder, long_prompts=ROUTED)

    def ask(spy: Any) -> None:
        spy.to_request({"text": "A text.", "candidate_id": "s-0"}, tokenizer)

    read, names = read_by(stage, place, ask)
    assert names - read == set(), "hashed and never read"
    assert read - names <= NOT_PART_OF_A_RESULT, "read and not hashed"


METHODS = {"expected": "grades", "text": "rating_text", "mean": "rating_text"}  # and scripts


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("method", METHODS)
def test_rating_by_a_model_reads_what_it_hashes(where, model_folder, tokenizer, method):
    place = where(method)
    folder = Path(place.run_folder)
    tables.write_rows(str(folder / "in"), [candidate(n) for n in range(4)], Candidate)
    settings = RatingSettings(method=method, num_samples=2)
    stage = replace(rate_stage(folder, model_folder, settings), long_prompts=ROUTED)
    make_engine = partial(ScriptedEngine, script=METHODS[method])

    def ask(spy: Any) -> None:
        row = tables.as_dict(candidate(1))
        spy.to_request(row, tokenizer)
        spy.to_rated_pair(row, GENERATED)

    read, names = read_by(stage, replace(place, make_engine=make_engine), ask)
    assert names - read == set(), "hashed and never read"
    assert read - names <= NOT_PART_OF_A_RESULT, "read and not hashed"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("method", METHODS)
def test_rating_by_an_endpoint_reads_what_it_hashes(where, method):
    place = where(method)
    folder = Path(place.run_folder)
    word = "good" if method == "expected" else "text"  # the server's script
    pairs = [replace(candidate(n), response=f"{n} {word}") for n in range(4)]
    tables.write_rows(str(folder / "in"), pairs, Candidate)

    def ask(spy: Any) -> None:
        row = tables.as_dict(pairs[1])
        request = spy.to_chat_request(row)
        spy.from_chat_reply(row, try_endpoint(server.settings, limits(), request))

    with chat_server() as server:
        server.probe = word
        settings = RatingSettings(method=method, num_samples=2, endpoint=server.settings)
        stage = replace(
            rate_stage(folder, "", settings), rater=None, long_prompts=ROUTED,
            template="$instruction\n$answer_format\n$response",
        )  # fmt: skip
        read, names = read_by(stage, place, ask)
    assert names - read == set(), "hashed and never read"
    assert read - names <= NOT_PART_OF_A_RESULT, "read and not hashed"


@dataclass(frozen=True, kw_only=True)
class IgnoringEvaluate(Evaluate):
    """An evaluation with a field too many, for which it would be made again for nothing."""

    long_prompts: LongPromptSettings


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_evaluation_reads_what_it_hashes_and_a_field_that_nothing_reads_is_noticed(
    where, model_folder, tokenizer
):
    place = where("evaluate")
    folder = Path(place.run_folder)
    (folder / "prompts.json").write_text(json.dumps([{"dataset": "mine", "instruction": "Why?"}]))
    tables.write_rows(str(folder / "seed" / "held_out"), [SeedPair("p", "Why?", "So.")], SeedPair)
    stage = IgnoringEvaluate(
        path="stage", name="M_1", model=Source(model_folder, "model"),
        seed=Source(str(folder / "seed" / "held_out"), "seed"),
        prompts=Source(str(folder / "prompts.json"), "prompts"), seed_tag="S_a.", web_tag="S_w.",
        sampling=SamplingSettings(max_tokens=16), context_length=1024, dtype="float32",
        random_seed=0, long_prompts=ROUTED,
    )  # fmt: skip

    def ask(spy: Any) -> None:
        for kind in TaskKind:
            spy.to_request(tables.as_dict(Task("t", kind, "mine", "Why?", "So.")), tokenizer)

    read, names = read_by(stage, place, ask)
    assert names - read == {"long_prompts.policy", "long_prompts.context_length"}
    assert read - names <= NOT_PART_OF_A_RESULT, "read and not hashed"


# --- what a changed setting makes again -----------------------------------------------------------


def changed(*overrides: str, recipe: str = "tiny") -> set[str]:
    """Paths of the stages that are other ones under these settings."""
    before, after = (
        {stage.path: stage.fingerprint for stage in pipeline.stages_of(load_recipe(recipe, given))}
        for given in ([], list(overrides))
    )
    assert before.keys() == after.keys()
    return {path for path in before if before[path] != after[path]}


EVALUATIONS = {f"evaluation/{name}" for name in ("base", "M_0", "M_1", "M_2")}
ITERATIONS = {f"iter-{t}/{name}" for t in (1, 2) for name in ("rated", "examples", "model")}
OF_CANDIDATES = {"candidates", *ITERATIONS, "evaluation/M_1", "evaluation/M_2"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("settings.evaluation.sampling.temperature=0", EVALUATIONS),
        ("settings.augmentation.temperature=0.9", OF_CANDIDATES),
        ("settings.num_candidates=2", OF_CANDIDATES),
        ("settings.rating.min_scored_share=0.1", set()),
        ("settings.rating.sampling.temperature=0.3", set()),  # `expected` samples nothing
        ("settings.rating.rubric=additive", OF_CANDIDATES - {"candidates"}),
        ("placement.engine.rows_per_batch=7", set()),
    ],
)
def test_changed_setting_changes_exactly_the_stages_that_depend_on_it(override, expected):
    assert changed(override) == expected


# --- a revision on the hub ------------------------------------------------------------------------


def base_evaluation(revision: str) -> Evaluate:
    overrides = ["settings.base.model=org/model", f"settings.base.revision={revision}"]
    stages = pipeline.stages_of(load_recipe("llama-7b", overrides))
    (found,) = (stage for stage in stages if stage.path == "evaluation/base")
    assert isinstance(found, Evaluate)
    return found


def test_a_revision_of_the_base_reaches_the_engine_and_the_identity(tmp_path):
    stage = base_evaluation("a-branch")
    assert stage.fingerprint != base_evaluation("main").fingerprint
    served = stage.served(context(tmp_path / "base"), stage.model)
    assert (served.location, served.revision) == ("org/model", "a-branch")
    arguments = vllm_engine.arguments(served, EnginePlacement())
    assert arguments["model"] == "org/model"
    assert arguments["revision"] == arguments["tokenizer_revision"] == "a-branch"


def test_tokenizer_of_a_revision_is_loaded_from_that_revision(tmp_path, tokenizer, monkeypatch):
    from huggingface_hub import constants

    from humpback_ray.training.scratch_model import train_tokenizer

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    for number, (revision, made) in enumerate(
        {"main": tokenizer, "other": train_tokenizer(["other words"] * 20, 300)}.items()
    ):
        commit = f"{number}" * 40
        (repository / "refs" / revision).write_text(commit)
        made.save_pretrained(repository / "snapshots" / commit)
        (repository / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}')
    main, other = (
        load_tokenizer(ServedModel("org/model", 1024, "auto", revision=revision))
        for revision in (None, "other")
    )
    assert main.get_vocab() == tokenizer.get_vocab()
    assert other.get_vocab() != main.get_vocab()
