"""Rows for a person to read: up to twenty of each stage, drawn by the hash of their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from humpback_ray.report.figures import Sample, SampleFigures, StageFigures, sample_text
from humpback_ray.report.funnel import in_words
from humpback_ray.report.stage_records import StageRecords
from humpback_ray.report.stage_rows import drawn_ids, ids_of, rows_with, scan_rows
from humpback_ray.rows import Finish, Origin, TaskKind
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.safety_seed import SafetySeed
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments

NUM_SAMPLES = 20
AT_RANDOM = "drawn at random"

Row = Mapping[str, Any]


def samples_of(records: StageRecords) -> list[SampleFigures]:
    """Samples of every stage whose rows a person reads, in the order of the method."""
    return [figures for figures in _samples(records) if figures.rows]


def _samples(records: StageRecords) -> Iterator[SampleFigures]:
    for seed in records.of(Seed)[:1]:
        yield _of_rows(records, seed, "rows", ["pair_id", "instruction", "response"], _pair)
    for safety in records.of(SafetySeed)[:1]:
        yield _of_rows(records, safety, "rows", ["pair_id", "instruction", "response"], _pair)
    for segments in records.of(Segments)[:1]:
        columns = ["segment_id", "text", "header", "url", "outcome"]
        yield _of_rows(records, segments, "rows", columns, _segment)
        yield _of_rows(records, segments, "dropped", columns, _segment)
    for candidates in records.of(Augment)[:1]:
        columns = ["candidate_id", "segment_id", "instruction", "response", "finish"]
        yield _with_sources(records, _of_rows(records, candidates, "rows", columns, _candidate))
    columns = ["candidate_id", "segment_id", "instruction", "response", "score", "outcome",
               "rationale"]  # fmt: skip
    for iteration in records.iterations():
        rated = _of_rows(records, iteration.rated, "rows", columns, _rated)
        yield _with_sources(records, _by_title(rated))
        if iteration.curated:
            yield _with_sources(records, _selected(records, iteration.curated))
    if records.of(Evaluate):
        yield _answers(records)


def _of_rows(
    records: StageRecords,
    stage: StageFigures,
    rows: str,
    columns: list[str],
    to_sample: Callable[[Row], Sample],
) -> SampleFigures:
    """Rows of one folder of a stage; the first column is the id."""
    folder = records.folder(stage, rows)
    num_rows = sum(1 for _ in ids_of(folder, columns[0]))
    ids = drawn_ids(ids_of(folder, columns[0]), NUM_SAMPLES)
    found = rows_with(folder, columns[0], ids, columns)[:NUM_SAMPLES]
    name = stage.path if rows == "rows" else f"{stage.path}, {rows}"
    return SampleFigures(name, AT_RANDOM, num_rows, [to_sample(row) for row in found])


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


def _selected(records: StageRecords, curated: StageFigures) -> SampleFigures:
    """Selected pairs; the seed's examples are the same in every iteration."""
    folder = records.folder(curated, "rows")
    rows = scan_rows(folder, ["example_id", "origin"])
    web = [name for name, origin in rows if origin == Origin.WEB]
    columns = ["example_id", "prompt", "completion", "tag"]
    found = rows_with(folder, "example_id", drawn_ids(iter(web), NUM_SAMPLES), columns)
    samples = [
        _sample(
            row["example_id"].removeprefix(f"{Origin.WEB}-"), f"tag: {row['tag']}",
            [("instruction", row["prompt"]), ("response", row["completion"])], "",
        )
        for row in found
    ]  # fmt: skip
    return SampleFigures(curated.path, f"selected pairs, {AT_RANDOM}", len(web), samples)


def _with_sources(records: StageRecords, figures: SampleFigures) -> SampleFigures:
    """Samples of candidates with the URL of the segment behind each."""
    segments, candidates = records.first(Segments), records.first(Augment)
    if segments is None or candidates is None:
        return figures
    ids = [sample.row_id for sample in figures.rows]
    rows = rows_with(records.folder(candidates, "rows"), "candidate_id", ids, ["segment_id"])
    of_candidate = {row["candidate_id"]: row["segment_id"] for row in rows}
    found = rows_with(
        records.folder(segments, "rows"), "segment_id", set(of_candidate.values()), ["url"]
    )
    urls = {row["segment_id"]: row["url"] for row in found}
    samples = [
        Sample(s.row_id, s.title, s.texts, urls.get(of_candidate.get(s.row_id, ""), ""))
        for s in figures.rows
    ]
    return SampleFigures(figures.stage, figures.how, figures.num_rows, samples)


def _answers(records: StageRecords) -> SampleFigures:
    """Every model's answers to the same prompts, beside each other."""
    stages = records.of(Evaluate)
    rows = scan_rows(records.folder(stages[0], "rows"), ["task_id", "kind"])
    tasks = [name for name, kind in rows if kind == TaskKind.ANSWER]
    ids = drawn_ids(iter(tasks), NUM_SAMPLES)
    answers: dict[str, list[tuple[str, str]]] = {name: [] for name in ids}
    columns = ["task_id", "instruction", "output", "dataset"]
    datasets: dict[str, str] = {}
    for stage in stages:
        for row in rows_with(records.folder(stage, "rows"), "task_id", ids, columns):
            texts = answers[row["task_id"]]
            if not texts:
                texts.append(("instruction", row["instruction"]))
                datasets[row["task_id"]] = row["dataset"]
            texts.append((str(stage.settings.get("name", stage.path)), row["output"]))
    samples = [_sample(name, datasets.get(name, ""), answers[name], "") for name in ids]
    return SampleFigures("answers", f"prompts {AT_RANDOM}", len(tasks), samples)
