"""Ratings by a rater behind a chat endpoint: a real server on this machine."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import LongPromptSettings, RatingSettings, SamplingSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Result, Source
from humpback_ray.method import rating
from humpback_ray.rows import Candidate, Finish, RatedPair
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest
from humpback_ray.serving.requests import Generation
from humpback_ray.stages import rate
from humpback_ray.stages.rate import Rate
from tests.support.chat_server import SHARES, ChatServer, chat_server, limits
from tests.support.generation import candidate, context

# The server goes by a prompt's last word.
TEMPLATE = "$instruction\n$answer_format\n$response"
EXPECTED = sum(grade * share for grade, share in SHARES.items())


@pytest.fixture
def server():
    with chat_server() as server:
        yield server


def settings_for(server: ChatServer, **changes) -> RatingSettings:
    return RatingSettings(endpoint=server.settings, **changes)


def placement(**changes) -> Placement:
    return Placement(endpoint=limits(**changes))


def stage(settings: RatingSettings, folder: str = "run") -> Rate:
    return Rate(
        path="rated",
        candidates=Source(f"{folder}/in", "candidates"),
        rater=None,
        iteration=1,
        settings=settings,
        template=TEMPLATE,
        long_prompts=LongPromptSettings(),
        context_length=1024,
        dtype="float32",
        random_seed=0,
    )


def rated(folder: Path, words: list[str], settings: RatingSettings) -> tuple[Result, list]:
    """Pairs whose responses end with a word that the server has a script for."""
    pairs = [
        replace(candidate(number, "Say it." if word else ""), response=f"{number} {word}")
        for number, word in enumerate(words)
    ]
    tables.write_rows(str(folder / "in"), pairs, Candidate)
    where = replace(context(folder / "rated"), placement=placement())
    result = stage(settings, str(folder)).run(where)
    return result, tables.read_rows(str(folder / "rated" / "rows"), RatedPair)


def outcomes(rows: list[RatedPair]) -> dict[str, tuple[float | None, str]]:
    """Score and outcome by the last word of the response."""
    return {row.response.split()[-1]: (row.score, row.outcome) for row in rows}


# --- through Ray ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_expected_ratings_of_an_endpoint_are_means_over_its_probabilities(
    ray_cluster, server, tmp_path
):
    words = ["good", "busy", "prose", "cut", "filtered", "long", "refused"]
    result, rows = rated(tmp_path, [*words, ""], settings_for(server, min_scored_share=0.1))
    assert result.num_rows == len(rows) == 8
    assert (result.outcomes["scored"], result.outcomes["engine_error"]) == (2, 2)
    found = outcomes(rows)
    assert found.pop("good") == (pytest.approx(EXPECTED), "scored")
    assert found.pop("busy") == (pytest.approx(EXPECTED), "scored")
    assert found.pop("7") == (None, "no_instruction")
    assert found == {
        "prose": (None, "no_score_line"),
        "cut": (None, "truncated"),
        "filtered": (None, "engine_error"),
        "long": (None, "prompt_too_long"),
        "refused": (None, "engine_error"),
    }
    (good,) = [row for row in rows if row.response.endswith("good")]
    assert good.probabilities == pytest.approx(list(SHARES.values()))
    assert (good.num_prompt_tokens, good.num_generated_tokens) == (11, 3)
    for received in server.requests:
        body = received.body
        assert (body["temperature"], body["logprobs"], body["top_logprobs"]) == (0.0, True, 20)
        assert body["max_tokens"] == rate.MAX_SCORE_TOKENS


@pytest.mark.slow
def test_text_ratings_of_an_endpoint_are_parsed_like_those_of_an_engine(
    ray_cluster, server, tmp_path
):
    server.probe = "text"
    sampling = SamplingSettings(temperature=1.0, top_p=0.9, max_tokens=99)
    settings = settings_for(server, method="text", sampling=sampling, min_scored_share=0.1)
    _, rows = rated(tmp_path, ["text", "cut_text", "prose", "down"], settings)
    assert outcomes(rows) == {
        "text": (4.0, "scored"),
        "cut_text": (None, "truncated"),
        "prose": (None, "no_score_line"),
        "down": (None, "engine_error"),
    }
    body = server.requests[-1].body
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (99, 1.0, 0.9)
    assert body["logprobs"] is False
    seeds = {received.body["seed"] for received in server.requests[1:]}
    assert len(seeds) == 4


# --- without Ray ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("key", r"cannot rate as judge: HTTP 401 .*wrong key.*settings\.rating\.endpoint"),
        ("down", r"cannot rate as judge: HTTP 503"),
        ("text", r"no log-probabilities with the grade: set settings\.rating\.method=text"),
    ],
)
def test_endpoint_that_cannot_rate_is_refused_in_one_line_before_any_row(server, probe, message):
    server.probe = probe
    with pytest.raises(UserError, match=message) as error:
        stage(settings_for(server)).endpoint_pool(placement())
    assert "\n" not in str(error.value)
    assert len(server.requests) <= 4


def test_endpoint_that_fails_its_first_request_is_refused_as_a_rater(server):
    server.probe = "down"
    with pytest.raises(UserError, match="cannot rate as judge"):
        stage(settings_for(server)).endpoint_pool(placement(max_failures_in_a_row=1))


def test_pair_without_an_instruction_is_not_sent_to_an_endpoint(server):
    rating_stage = stage(settings_for(server))
    row = {"candidate_id": "a", "instruction": "", "response": "Good."}
    assert rating_stage.to_chat_request(row) is None
    asked = rating_stage.to_chat_request(row | {"instruction": "Say."})
    assert isinstance(asked, ChatRequest)
    assert asked.top_logprobs == server.settings.num_top_tokens


def test_reply_without_log_probabilities_is_an_error_for_expected_alone(server):
    reply = ChatReply(text="It reads well.\nScore: 4", finish=Finish.STOP)
    by_probabilities = rate.generation_of(reply, settings_for(server))
    assert by_probabilities.finish is Finish.ENGINE_ERROR
    assert "settings.rating.method=text" in by_probabilities.text
    by_text = rate.generation_of(reply, settings_for(server, method="text"))
    assert rating.parse_rating(by_text.text, by_text.finish)[0] == 4


ROW = {
    "candidate_id": "a", "segment_id": "s", "instruction": "Say.", "response": "Good.",
    "finish": "stop",
}  # fmt: skip


def engine_stage(**settings) -> Rate:
    return replace(stage(RatingSettings(**settings)), rater=Source("model", "model"))


def graded(*logprobs: float) -> Generation:
    return Generation("", Finish.LENGTH, 9, 1, wanted_logprobs=logprobs)


@pytest.mark.parametrize(
    ("mass", "least", "outcome", "score"),
    [
        (0.8, 0.5, "scored", 3.0),
        (0.5001, 0.5, "scored", 3.0),
        (0.4, 0.5, "no_grade", None),
        (0.4, 0.05, "scored", 3.0),
        (1e-26, 0.5, "no_grade", None),
        (1e-26, 0.0, "scored", 3.0),
    ],
)
def test_rater_with_too_little_grade_mass_gives_no_grade(mass, least, outcome, score):
    row = engine_stage(min_grade_mass=least).to_rated_pair(ROW, graded(*[math.log(mass / 5)] * 5))
    assert (row["outcome"], row["score"]) == (outcome, pytest.approx(score) if score else None)
    assert row["grade_mass"] == pytest.approx(mass)
    assert row["num_scored_samples"] == (score is not None)
    assert row["probabilities"] == pytest.approx([0.2] * 5)


def test_rater_without_any_grade_probability_gives_no_grade():
    row = engine_stage(min_grade_mass=0.0).to_rated_pair(ROW, graded(*[-math.inf] * 5))
    assert (row["outcome"], row["score"], row["grade_mass"]) == ("no_grade", None, 0.0)
    assert row["probabilities"] is None


def test_least_grade_mass_is_a_half_by_default_and_identifies_expected_alone():
    assert RatingSettings().min_grade_mass == 0.5
    assert load_recipe("llama-7b").settings.rating.min_grade_mass == 0.5
    assert 0 < load_recipe("tiny").settings.rating.min_grade_mass < 0.27, "of its raters' pairs"
    identities = [RatingSettings(min_grade_mass=mass).identity() for mass in (0.5, 0.4)]
    assert identities[0] != identities[1]
    by_text = [RatingSettings(method="text", min_grade_mass=m).identity() for m in (0.5, 0.4)]
    assert by_text[0] == by_text[1]


@pytest.mark.parametrize("method", ["expected", "text", "mean"])
def test_cut_instruction_has_an_outcome_and_is_not_sent_to_an_engine(tokenizer, method):
    rating_stage = engine_stage(method=method)
    cut = ROW | {"finish": "length"}
    assert rating_stage.to_request(cut, tokenizer).prompt_ids == []
    assert rating_stage.to_request(ROW, tokenizer).prompt_ids
    row = rating_stage.to_rated_pair(cut, Generation("", Finish.EMPTY_PROMPT, 0))
    assert (row["outcome"], row["score"]) == ("cut_instruction", None)
    row = rating_stage.to_rated_pair(
        cut | {"instruction": ""}, Generation("", Finish.EMPTY_PROMPT, 0)
    )
    assert row["outcome"] == "no_instruction"


def test_cut_instruction_is_not_sent_to_an_endpoint(server):
    rating_stage = stage(settings_for(server))
    assert rating_stage.to_chat_request(ROW | {"finish": "length"}) is None
    assert rating_stage.to_chat_request(ROW) is not None


def test_the_raters_model_has_its_logits_in_32_bits(tmp_path):
    task = engine_stage().row_task(context(tmp_path / "rated"))
    assert task.model.head_dtype == "float32"


def test_more_scored_samples_than_samples_are_refused():
    with pytest.raises(ValueError, match="min_scored_samples 4 is above num_samples 3"):
        RatingSettings(method="mean", num_samples=3, min_scored_samples=4)


def test_failed_reply_is_an_engine_error_under_every_method(server):
    reply = ChatReply(text="HTTP 503", finish=Finish.ENGINE_ERROR)
    for method in ("expected", "text"):
        generation = rate.generation_of(reply, settings_for(server, method=method))
        assert (generation.text, generation.finish) == ("HTTP 503", Finish.ENGINE_ERROR)
