"""Rows for a person to read: up to twenty of each stage, drawn by the hash of their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from humpback_ray.figures.outcome_words import in_words
from humpback_ray.figures.pair_sets import WEB_ID, RunRows
from humpback_ray.figures.stage_rows import Drawn, hashes_of, where
from humpback_ray.figures.types import Sample, SampleFigures, StageFigures, sample_text
from humpback_ray.rows import (
    Candidate,
    Evaluated,
    Finish,
    RatedPair,
    SafetyAnswer,
    SeedPair,
    Segment,
    TaskKind,
    Verdict,
)
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.other_answers import OtherAnswers
from humpback_ray.stages.safety_answers import SafetyAnswers
from humpback_ray.stages.safety_seed import SafetySeed
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments

NUM_SAMPLES = 20
AT_RANDOM = "drawn at random"

Row = Mapping[str, Any]


def samples_of(rows: RunRows) -> list[SampleFigures]:
    """Samples of every stage whose rows a person reads, in the order of the method."""
    return [figures for figures in _samples(rows) if figures.rows]


def _samples(rows: RunRows) -> Iterator[SampleFigures]:
    records = rows.records
    for seed in records.of(Seed)[:1]:
        yield _of_rows(rows, seed, SeedPair, ["instruction", "response"], _pair)
    for safety in records.of(SafetySeed)[:1]:
        yield _of_rows(rows, safety, SeedPair, ["instruction", "response"], _pair)
    for segments in records.of(Segments)[:1]:
        columns = ["text", "header", "url", "outcome"]
        yield _of_rows(rows, segments, Segment, columns, _segment)
        yield _of_rows(rows, segments, Segment, columns, _segment, "dropped")
    for candidates in records.of(Augment)[:1]:
        columns = ["instruction", "response", "finish"]
        yield _with_sources(rows, _of_rows(rows, candidates, Candidate, columns, _candidate))
    columns = ["instruction", "response", "score", "outcome", "rationale"]
    for iteration in records.iterations():
        rated = _of_rows(rows, iteration.rated, RatedPair, columns, _rated)
        yield _with_sources(rows, _by_title(rated))
        if iteration.curated:
            yield _with_sources(rows, _selected(rows, iteration.curated))
    if answering := [*records.of(Evaluate), *records.of(OtherAnswers)]:
        yield _side_by_side(rows, answering, Evaluated, "answers", "dataset")
    if answering := records.of(SafetyAnswers):
        yield _side_by_side(rows, answering, SafetyAnswer, "safety answers", "expected")
    columns = ["model", "opponent", "is_control", "is_model_first", "instruction",
               "output", "opponent_output", "preference", "outcome", "said"]  # fmt: skip
    for judged in records.of(Judge)[:1]:
        yield _of_rows(rows, judged, Verdict, columns, _verdict)


def _of_rows(
    rows: RunRows,
    stage: StageFigures,
    row_type: type,
    columns: list[str],
    to_sample: Callable[[Row], Sample],
    name: str = "rows",
) -> SampleFigures:
    """Rows of one folder of a stage, with some of their columns."""
    folder = rows.folder(stage, row_type, name)
    found = folder.drawn(NUM_SAMPLES, columns)
    title = stage.path if name == "rows" else f"{stage.path}, {name}"
    samples = [to_sample(row) for row in found]
    return SampleFigures(title, AT_RANDOM, folder.num_rows, samples)


def _sample(row_id: str, title: str, texts: list[tuple[str, str]], source: str) -> Sample:
    return Sample(row_id, title, [sample_text(name, text) for name, text in texts], source)


def _pair(row: Row) -> Sample:
    texts = [("instruction", row["instruction"]), ("response", row["response"])]
    return _sample(row["pair_id"], "", texts, "")


def _segment(row: Row) -> Sample:
    dropped = "" if row["outcome"] == "kept" else f"dropped: {in_words(row['outcome'])}"
    title = " · ".join(part for part in (dropped, row["header"]) if part)
    return _sample(row["segment_id"], title, [("text", row["text"])], row["url"])


def _candidate(row: Row) -> Sample:
    texts = [("instruction", row["instruction"]), ("response", row["response"])]
    title = "" if row["finish"] == Finish.STOP else in_words(row["finish"])
    return _sample(row["candidate_id"], title, texts, "")


def _rated(row: Row) -> Sample:
    texts = [("instruction", row["instruction"]), ("response", row["response"])]
    if row["rationale"]:
        texts.append(("rationale", row["rationale"]))
    score = row["score"]
    title = in_words(row["outcome"]) if score is None else f"score {score:.2f}"
    return _sample(row["candidate_id"], title, texts, "")


def _by_title(figures: SampleFigures) -> SampleFigures:
    """The same samples, the best scores first."""
    rows = sorted(figures.rows, key=lambda sample: sample.title, reverse=True)
    return SampleFigures(figures.stage, f"{figures.how}, best first", figures.num_rows, rows)


def _selected(rows: RunRows, curated: StageFigures) -> SampleFigures:
    """Selected pairs; the seed's examples are the same in every iteration."""
    selected = rows.selected(curated)
    samples = [
        _sample(
            row["example_id"].removeprefix(WEB_ID), f"tag: {row['tag']}",
            [("instruction", row["prompt"]), ("response", row["completion"])], "",
        )
        for row in selected.rows[:NUM_SAMPLES]
    ]  # fmt: skip
    return SampleFigures(curated.path, f"selected pairs, {AT_RANDOM}", selected.size, samples)


def _with_sources(rows: RunRows, figures: SampleFigures) -> SampleFigures:
    """Samples of candidates with the URL of the segment behind each."""
    segments, candidates = rows.records.first(Segments), rows.records.first(Augment)
    if segments is None or candidates is None:
        return figures
    ids = [sample.row_id for sample in figures.rows]
    found = rows.folder(candidates, Candidate).with_ids(ids, ["segment_id"])
    of_candidate = {row["candidate_id"]: row["segment_id"] for row in found}
    folder = rows.folder(segments, Segment)
    with_url = folder.with_ids(set(of_candidate.values()), ["url"])
    urls = {row["segment_id"]: row["url"] for row in with_url}
    samples = [
        Sample(s.row_id, s.title, s.texts, urls.get(of_candidate.get(s.row_id, ""), ""))
        for s in figures.rows
    ]
    return SampleFigures(figures.stage, figures.how, figures.num_rows, samples)


def _verdict(row: Row) -> Sample:
    """Two answers in the order in which the judge saw them, and what it made of them."""
    model, opponent = row["model"], row["opponent"]
    answers = [(model, row["output"] or ""), (opponent, row["opponent_output"] or "")]
    texts = [("instruction", row["instruction"]), *answers[:: 1 if row["is_model_first"] else -1]]
    if row["said"]:
        texts.append(("judge", row["said"]))
    preference = row["preference"]
    verdict = in_words(row["outcome"]) if preference is None else f"{preference:.2f} for {model}"
    control = ", a control" if row["is_control"] else ""
    return _sample(row["verdict_id"], f"{model} : {opponent}{control} · {verdict}", texts, "")


def _side_by_side(
    rows: RunRows, stages: Sequence[StageFigures], row_type: type, title: str, about: str
) -> SampleFigures:
    """Every model's answers to the same drawn prompts, beside each other.

    Args:
        stages: one for each model.
        about: the column that becomes the title of a prompt.
    """
    asked = {"kind": TaskKind.ANSWER} if row_type is Evaluated else {}
    drawn, num_answers = Drawn(NUM_SAMPLES), 0
    for _, batch in rows.folder(stages[0], row_type).scan(list(asked)):
        for column, value in asked.items():
            batch = batch.filter(pa.array(where(batch, column, value)))
        drawn.add(hashes_of(batch["task_id"]), batch)
        num_answers += len(batch)
    ids = [row["task_id"] for row in drawn.rows()]
    answers: dict[str, list[tuple[str, str]]] = {name: [] for name in ids}
    titles: dict[str, str] = {}
    for stage in stages:
        folder = rows.folder(stage, row_type)
        for row in folder.with_ids(ids, ["instruction", "output", about]):
            texts = answers[row["task_id"]]
            if not texts:
                texts.append(("instruction", row["instruction"]))
                titles[row["task_id"]] = row[about]
            texts.append((str(stage.settings.get("name", stage.path)), row["output"]))
    samples = [_sample(name, titles.get(name, ""), answers[name], "") for name in ids]
    return SampleFigures(title, f"prompts {AT_RANDOM}", num_answers, samples)
