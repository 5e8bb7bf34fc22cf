"""Figures of a run, read from records, rows and metrics of a folder made without engines."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.figures.models import GENERATING, thinned
from humpback_ray.figures.outcome_words import in_words
from humpback_ray.figures.run import figures_of
from humpback_ray.figures.types import FunnelStep, RunFigures
from humpback_ray.report.sections import sections_of
from humpback_ray.rows import (
    Origin,
    RatedPair,
    Segment,
    SegmentOutcome,
    TrainingExample,
    Verdict,
)
from humpback_ray.stages.generating import GeneratingStage
from tests.support import run_folder
from tests.support.judging import Quality, asked, judged
from tests.support.people import NUM_ITEMS, Ballot, pairs, winner
from tests.support.run_folder import (
    NUM_PROMISING,
    NUM_SEGMENTS,
    NUM_SELECTED,
    Texts,
    judge_figures,
    write_run,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[str, RunFigures]:
    folder = write_run(str(tmp_path_factory.mktemp("runs") / "finished"), judge=judge_figures())
    return folder, figures_of(folder)


def not_computed(figures: RunFigures) -> dict[str, str]:
    return {entry.what: entry.why for entry in figures.not_computed}


def test_funnel_counts_add_up_from_documents_to_examples(finished):
    _, figures = finished
    steps = {step.name: step for step in figures.funnel}
    assert list(steps) == [
        "Seed pairs", "Documents", "Segments", "Instructions", "Scores, iteration 1",
        "Selection, iteration 1", "Examples of M_1", "Scores, iteration 2",
        "Selection, iteration 2", "Examples of M_2",
    ]  # fmt: skip
    assert (steps["Documents"].num_in, steps["Documents"].num_kept) == (40, 30)
    assert steps["Documents"].reasons == {"no section kept": 9, "no document": 1}
    assert steps["Segments"].reasons == {"too short": 14, "near duplicate": 3, "not read": 2}
    assert steps["Instructions"].reasons == {"cut at the token limit": 4}
    assert steps["Scores, iteration 1"].num_kept == steps["Selection, iteration 1"].num_in == 56
    assert steps["Selection, iteration 2"].reasons == {"score too low": 56 - NUM_SELECTED}
    assert steps["Examples of M_2"].num_kept == 20 + NUM_SELECTED
    assert figures.problems == []


def test_blocked_documents_have_a_reason_of_their_own_in_the_funnel(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    dropped = f"{folder}/segments/dropped"
    rows = tables.read_rows(dropped, Segment)
    blocked = [replace(rows[0], document_id=f"blocked {n}", outcome=SegmentOutcome.BLOCKED)
               for n in range(2)]  # fmt: skip
    storage.delete(dropped)
    tables.write_rows(dropped, rows + blocked, Segment)
    [step] = [step for step in figures_of(folder).funnel if step.name == "Documents"]
    assert step.reasons == {"no section kept": 9, "blocked": 2, "no document": 1}
    assert (step.num_in, step.num_kept) == (42, 30)


def test_filtered_segments_are_a_step_of_the_funnel_and_its_sample_is_no_iteration(tmp_path):
    folder = write_run(str(tmp_path / "run"), overrides=["settings.prefilter={}"])
    figures = figures_of(folder)
    names = [step.name for step in figures.funnel]
    at = names.index("Promising segments")
    assert names[at - 1 : at + 3] == [
        "Segments", "Promising segments", "Instructions", "Scores, iteration 1",
    ]  # fmt: skip
    assert "Scores, iteration 3" not in names
    step = figures.funnel[at]
    assert (step.num_in, step.num_kept) == (NUM_SEGMENTS, NUM_PROMISING)
    assert step.reasons == {"not promising": NUM_SEGMENTS - NUM_PROMISING}
    assert figures.problems == []
    generating = [each.stage for each in figures.generations]
    assert generating[:2] == ["prefilter/candidates", "prefilter/rated"]


@pytest.mark.parametrize(
    ("beginning", "words"), [("gopher_", "Gopher: "), ("c4_", "C4: "), ("fineweb_", "FineWeb: ")]
)
def test_outcomes_of_published_rules_name_their_source_in_words(beginning, words):
    outcomes = [outcome for outcome in SegmentOutcome if outcome.startswith(beginning)]
    assert outcomes
    assert all(in_words(outcome).startswith(words) for outcome in outcomes)


def test_funnel_step_whose_counts_do_not_add_up_is_refused():
    with pytest.raises(AssertionError):
        FunnelStep("Segments", "segments", "sections", 10, 4, {"too short": 5})


def test_counts_that_do_not_fit_together_are_named(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    rows = f"{folder}/iter-1/rated/rows"
    kept = tables.read_rows(rows, RatedPair)[1:]
    tables.write_rows(rows, kept, RatedPair)
    assert figures_of(folder).problems == ["rows in iter-1/rated: 59, and its record has 60"]


def test_documents_that_opted_out_or_are_older_are_told_apart_and_facts_are_counted(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    older = SegmentOutcome.OLDER_CAPTURE
    outcomes = [SegmentOutcome.OPTED_OUT, older, older, SegmentOutcome.CONTAMINATED]
    rows = [Segment(f"{n:032x}", "text", "", f"more-{n}", "", 0, 4, outcome)
            for n, outcome in enumerate(outcomes)]  # fmt: skip
    tables.write_rows(f"{folder}/segments/dropped", rows, Segment, "more")
    record = storage.read_json(f"{folder}/segments/record.json")
    record["figures"] |= {"num_documents": 40, "opt_out": {"noai": 1}, "licence": {"by/4.0": 10}}
    storage.write_json(f"{folder}/segments/record.json", record)
    figures = figures_of(folder)
    [step] = [step for step in figures.funnel if step.name == "Documents"]
    assert (step.num_in, step.num_kept) == (44, 30)
    assert step.reasons == {
        "no section kept": 10, "older capture": 2, "no document": 1, "opted out": 1,
    }  # fmt: skip
    assert [(entry.fact, entry.value, entry.share) for entry in figures.facts] == [
        ("opt-out", "noai", 1 / 40), ("licence", "by/4.0", 1 / 4),
    ]  # fmt: skip


def test_overlap_is_that_of_the_two_selections(finished):
    folder, figures = finished
    first, second = (
        {
            row.example_id.removeprefix("web-")
            for row in tables.read_rows(f"{folder}/iter-{t}/examples/rows", TrainingExample)
            if row.origin is Origin.WEB
        }
        for t in (1, 2)
    )
    (overlap,) = figures.overlaps
    counts = (overlap.num_both, overlap.num_gained, overlap.num_lost)
    assert counts == (len(first & second), len(second - first), len(first - second))
    assert all(counts)
    assert {pair.candidate_id for pair in overlap.gained} <= second - first
    scores = {
        row.candidate_id: row.score
        for row in tables.read_rows(f"{folder}/iter-1/rated/rows", RatedPair)
    }
    assert all(pair.before == scores[pair.candidate_id] for pair in overlap.lost)
    assert all(pair.after > pair.before for pair in overlap.gained)


def test_lengths_are_mean_and_deviation_in_characters(finished):
    _, figures = finished
    lengths = {entry.name: entry for entry in figures.lengths}
    texts = Texts()
    of_all = [len(texts.response(n)) for n in range(NUM_SEGMENTS)]
    assert lengths["A"].responses.n == NUM_SEGMENTS
    assert lengths["A"].responses.mean == pytest.approx(statistics.mean(of_all))
    assert lengths["A"].responses.deviation == pytest.approx(statistics.stdev(of_all))
    assert sum(lengths["A"].response_bins.values()) == NUM_SEGMENTS
    assert lengths["A_5^(2)"].paper.n == 41_821
    assert lengths["selected^(1)"].instructions.n == NUM_SELECTED
    folder, _ = finished
    rated = tables.read_rows(f"{folder}/iter-1/rated/rows", RatedPair)
    assert lengths["A_4^(1)"].responses.n == sum((row.score or 0) >= 4 for row in rated)


def test_scores_fill_a_histogram_in_tenths(finished):
    _, figures = finished
    first, second = figures.scores
    assert sum(first.tenths.values()) == first.scores.n == 56
    assert (first.num_pairs, first.num_selected) == (60, NUM_SELECTED)
    assert second.scores.mean > first.scores.mean
    assert all(1 <= float(tenth) <= 5 for tenth in first.tenths)


def test_loss_and_its_change_are_paired(finished):
    _, figures = finished
    losses = {entry.model: entry for entry in figures.losses}
    assert list(losses) == ["base", "M_0", "M_1", "M_2"]
    base, last = losses["base"], losses["M_2"]
    assert base.change is None
    assert base.loss.low < base.loss.value < base.loss.high
    assert (last.before, last.change.n, last.num_tokens) == ("M_1", 8, 800)
    # Every pair has changed by the same amount, whatever the pairs' own losses are.
    assert last.change.value == pytest.approx(-0.1)
    assert last.change.high - last.change.low < 1e-9


def test_training_curve_keeps_the_last_line_of_a_repeated_step(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    lines = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 2, "loss": 5.0}]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 3, "lo'
    storage.write_text(f"{folder}/iter-1/model/metrics.jsonl", text)
    trainings = {training.model: training for training in figures_of(folder).trainings}
    assert trainings["M_1"].losses == [(1, 9.0), (2, 5.0)]
    assert {"base", "M_yx", "M_0", "M_2"} <= trainings.keys()


def test_long_curve_is_thinned_to_means():
    points = [(step, float(step)) for step in range(1, 1001)]
    thin = thinned(points)
    assert len(thin) <= 120
    assert thin[0] == (9, 5.0)
    assert thin[-1][0] == 1000


def test_headline_is_the_judge_s_answer_with_its_interval(finished):
    _, figures = finished
    assert figures.basis == "judge"
    assert figures.headline.startswith(
        "M_2 is better than M_1: it wins 58.0% of the games (95% interval 52.0 to 64.0, 200 "
    )
    assert "differences below 7.1 points stay unseen" in figures.headline


def test_headline_is_about_the_run_s_last_model_whoever_plays_after_it(tmp_path):
    judge = judge_figures()
    other = judge["games"][0] | {"model": "guanaco-65b", "opponent": "base", "more": "ignored"}
    folder = write_run(str(tmp_path / "run"), judge=judge | {"games": [*judge["games"], other]})
    figures = figures_of(folder)
    assert figures.headline.startswith("M_2 is better than M_1")
    assert figures.judges[0].games[-1].model == "guanaco-65b"


def test_failed_control_stands_before_every_win_rate(tmp_path):
    folder = write_run(str(tmp_path / "run"), judge=judge_figures(failed=True))
    headline = figures_of(folder).headline
    assert headline.startswith(
        "The judge judge-70b fails a control (constant answer), so its win rates say nothing about "
        "quality. M_2 against M_1: it wins 58.0% of the games (95% interval 52.0 to 64.0, 200 of "
    )
    assert "better" not in headline, "nothing says so"


def test_too_few_verdicts_give_no_score(tmp_path):
    folder = write_run(str(tmp_path / "run"), judge=judge_figures(num_judged=150))
    headline = figures_of(folder).headline
    assert "no score, because only 150 of 200 prompts are judged" in headline
    assert "better" not in headline


def test_headline_without_a_judge_says_so(tmp_path):
    figures = figures_of(write_run(str(tmp_path / "run")))
    assert figures.basis == "held-out loss"
    assert figures.headline.startswith("No judge is set")
    assert "0.100 lower than M_1's" in figures.headline
    assert "names no judge" in not_computed(figures)["win rates"]


def test_unfinished_run_has_the_figures_of_its_stages(tmp_path):
    figures = figures_of(write_run(str(tmp_path / "run"), until="iter-1/rated"))
    assert (figures.state, figures.basis) == ("stopped", "nothing")
    assert "iter-1/examples, iter-1/model, iter-2/rated and 6 more stages to do" in figures.headline
    assert [step.name for step in figures.funnel][-1] == "Scores, iteration 1"
    assert not_computed(figures)["figures of iter-2/model"] == "the stage is to do"
    assert "scores" not in not_computed(figures)


def test_attempt_without_a_finished_stage_has_no_figures(tmp_path):
    storage.write_json(f"{tmp_path}/attempts/001/attempt.json", {"stages": ["seed", "segments"]})
    figures = figures_of(str(tmp_path))
    assert (figures.funnel, figures.lengths, figures.samples) == ([], [], [])
    assert not_computed(figures)["scores"] == "no iteration has rated its pairs yet"


def test_folder_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        figures_of(str(tmp_path))


def test_stage_of_an_older_version_is_named(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    record = storage.read_json(f"{folder}/candidates/record.json")
    record["identity"]["version"] = 2
    storage.write_json(f"{folder}/candidates/record.json", record)
    (line,) = figures_of(folder).problems
    assert line.startswith("1 of 20 stages are of another version of this program")
    assert "candidates (augment 2, now 4)" in line


def test_record_with_foreign_fields_is_named_and_left_out(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    storage.write_json(f"{folder}/iter-2/rated/record.json", {"fingerprint": "f", "rows": 3})
    figures = figures_of(folder)
    assert "iter-2/rated/record.json is damaged or of another version" in figures.problems[0]
    assert [entry.iteration for entry in figures.scores] == [1]


def test_rows_that_lack_a_column_are_named_and_the_rest_is_computed(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    rows = f"{folder}/iter-1/rated/rows"
    table = tables.read_table(rows).drop_columns(["score"])
    tables.write_table(rows, table, "part-0")
    figures = figures_of(folder)
    assert (
        "another version of this program: they have no column score"
        in (not_computed(figures)["scores"])
    )
    assert figures.losses
    assert figures.funnel


def test_samples_carry_their_sources(finished):
    _, figures = finished
    samples = {entry.stage: entry for entry in figures.samples}
    assert len(samples["candidates"].rows) == 20
    assert samples["candidates"].num_rows == NUM_SEGMENTS
    for sample in samples["iter-2/examples"].rows:
        number = int(sample.row_id.removesuffix("-0"), 16)
        assert sample.source == Texts().url(number)
    answers = samples["answers"].rows[0]
    assert [text.name for text in answers.texts] == ["instruction", "base", "M_0", "M_1", "M_2"]


def test_verdicts_are_read_in_the_order_in_which_the_judge_saw_the_answers(tmp_path):
    folder = write_run(str(tmp_path / "run"), judge=judge_figures())
    verdicts = judged(asked(30, 9, missing={("M_1", "prompt-00003")}), Quality(0.2))
    verdicts = [replace(row, said="Better: A") for row in verdicts[::2]] + verdicts[1::2]
    tables.write_rows(f"{folder}/judgement/rows", verdicts, Verdict)
    (found,) = [each for each in figures_of(folder).samples if each.stage == "judgement"]
    assert (len(found.rows), found.num_rows) == (20, len(verdicts))
    rows = {row.verdict_id: row for row in verdicts}
    for sample in found.rows:
        row = rows[sample.row_id]
        control = ", a control" if row.is_control else ""
        verdict = "no answer" if row.preference is None else f"{row.preference:.2f} for {row.model}"
        assert sample.title == f"{row.model} : {row.opponent}{control} · {verdict}"
        pair = [(row.model, row.output or ""), (row.opponent, row.opponent_output or "")]
        shown = pair if row.is_model_first else pair[::-1]
        said = [("judge", row.said)] if row.said else []
        texts = [(text.name, text.text) for text in sample.texts]
        assert texts == [("instruction", row.instruction), *shown, *said]
    assert {rows[sample.row_id].is_model_first for sample in found.rows} == {True, False}


def test_answers_to_safety_prompts_stand_beside_each_other(tmp_path):
    folder = write_run(str(tmp_path / "run"), overrides=["settings.evaluation.safety=true"])
    (found,) = [each for each in figures_of(folder).samples if each.stage == "safety answers"]
    assert (len(found.rows), found.num_rows) == (20, 20)
    assert {sample.title for sample in found.rows} == {"refuse", "answer"}
    names = [text.name for text in found.rows[0].texts]
    assert names == ["instruction", "base", "M_0", "M_1", "M_2"]


def test_model_of_another_origin_has_answers_and_no_loss(tmp_path):
    other = "settings.evaluation.models=[{name: lima, model: org/lima}]"
    figures = figures_of(write_run(str(tmp_path / "run"), overrides=[other]))
    (answers,) = [each for each in figures.samples if each.stage == "answers"]
    names = [text.name for text in answers.rows[0].texts]
    assert names == ["instruction", "base", "M_0", "M_1", "M_2", "lima"]
    assert [loss.model for loss in figures.losses] == ["base", "M_0", "M_1", "M_2"]
    assert "evaluation/lima" in {each.stage for each in figures.generations}
    assert figures.problems == []


def test_every_stage_that_asks_a_model_is_among_the_engines_figures():
    """A new one would be missing in the report without a word."""

    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    package = {
        each for each in below(GeneratingStage) if each.__module__.startswith("humpback_ray.")
    }
    assert {each for each in package if hasattr(each, "kind")} == set(GENERATING)


def test_judgement_has_its_engines_figures(tmp_path):
    engines = {"num_engines": 2, "num_restarts": 0, "longest_start_seconds": 3.0,
               "idle_share_before_tail": 0.25}  # fmt: skip
    judge = judge_figures() | {"num_prompt_tokens": 900, "engines": engines}
    figures = figures_of(write_run(str(tmp_path / "run"), judge=judge))
    (found,) = [each for each in figures.generations if each.stage == "judgement"]
    assert (found.num_engines, found.occupation, found.prompt_tokens) == (2, 0.75, 900)


def test_diversity_compares_equally_many_instructions(finished):
    _, figures = finished
    assert {entry.n for entry in figures.diversity} == {NUM_SELECTED}
    of = {entry.name: entry for entry in figures.diversity}
    assert of["A"].of == NUM_SEGMENTS
    # Nine words each, of which one differs: "why does the tide of bay 7 rise so late".
    assert of["A"].distinct[0] == pytest.approx((9 + NUM_SELECTED) / (10 * NUM_SELECTED))
    assert of["A"].repeated_share == 0


def test_repeated_instructions_are_counted(tmp_path):
    texts = Texts(instruction=lambda n: "Why  is THE sea salt?" if n % 2 else f"Why is it {n}?")
    figures = figures_of(write_run(str(tmp_path / "run"), texts))
    of = {entry.name: entry for entry in figures.diversity}
    assert of["A"].repeated_share == 0.5


def test_sources_count_hosts_and_selected_segments(finished):
    _, figures = finished
    assert {source.name for source in figures.sources} == {f"tides{n}.example" for n in range(5)}
    assert sum(source.num_segments for source in figures.sources) == NUM_SEGMENTS
    assert sum(source.num_selected for source in figures.sources) == NUM_SELECTED


def test_figures_are_plain_json(finished):
    _, figures = finished
    text = json.dumps(asdict(figures), allow_nan=False)
    assert json.loads(text)["losses"][3]["loss"]["n"] == 8


def test_engines_tail_and_occupation_come_from_record_and_metrics(finished):
    _, figures = finished
    of = {entry.stage: entry for entry in figures.generations}
    candidates = of["candidates"]
    assert (candidates.num_engines, candidates.num_restarts) == (2, 1)
    assert candidates.occupation == pytest.approx(0.95)
    assert candidates.rows_per_second == pytest.approx(60 / 12.5)
    assert candidates.tail_seconds is not None


def test_run_on_any_store_has_the_same_figures(finished):
    folder, figures = finished
    url = f"memory://{Path(folder).name}"
    filesystem, path = storage.locate(url)
    filesystem.put(folder, path, recursive=True)
    assert figures_of(url).funnel == figures.funnel
    assert run_folder.recipe().name == figures.recipe


def test_votes_of_people_stand_in_the_report_with_the_judge_beside(tmp_path):
    folder = write_run(str(tmp_path / "run"))
    assert "people's votes" in not_computed(figures_of(folder))
    ballot = Ballot(tmp_path / "run" / "people", pairs())
    ballot.all_of("ann", winner)
    ballot.log.close()
    figures = figures_of(folder)
    ((pair,),) = [results.pairs for results in figures.people]
    assert (pair.win.value, pair.tie.value) == (20 / NUM_ITEMS, 8 / NUM_ITEMS)
    (section,) = [s for s in sections_of(figures) if s.anchor == "people"]
    votes = section.blocks[0]
    assert votes.caption == "People's votes"
    row = votes.rows[0]
    assert row[:3] == ("M_2 : org/other", "40", "40")
    for cell, share in zip(row[3:], (pair.win, pair.tie, pair.loss, pair.win_rate), strict=True):
        assert cell == f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
    assert [share.value for share in (pair.win, pair.win_rate)] == [0.5, 0.6]
    assert "people's votes" not in not_computed(figures)
    json.dumps(asdict(figures), allow_nan=False)


def test_ratings_that_are_repeated_add_up(tmp_path):
    ratings = tmp_path / "ratings.jsonl"
    ratings.write_text("{}\n")
    overrides = [f"settings.seed.ratings={ratings}", "settings.seed.rating_share=0.4"]
    folder = write_run(str(tmp_path / "run"), overrides=overrides)
    figures = figures_of(folder)
    by_path = {stage.path: stage.outcomes for stage in figures.stages}
    assert by_path["forward-0/examples"] == {"seed": 20, "rating": 12}
    assert not [line for line in figures.problems if "rating examples" in line]
    record = storage.read_json(f"{folder}/forward-0/examples/record.json")
    record["outcomes"] = {"seed": 22, "rating": 10}
    storage.write_json(f"{folder}/forward-0/examples/record.json", record)
    (line,) = [line for line in figures_of(folder).problems if "rating examples" in line]
    assert line == "rating examples in forward-0/examples: 10, and rating-seed has 16"
