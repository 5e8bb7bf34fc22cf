"""The run itself: time, engines, failures, settings, versions, lineage, and missing figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from humpback_ray.execution.clock import duration
from humpback_ray.figures.outcome_words import in_words
from humpback_ray.figures.types import RunFigures, StageFigures
from humpback_ray.report.document import Block, Cell, Paragraph, Row, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import count, fixed, percent, setting

SHOWN_FINGERPRINT = 12  # characters


def engines(figures: RunFigures) -> Iterator[Block]:
    """Time by stage, the engines' work, and every outcome that is a failure."""
    done = [(stage, stage.seconds) for stage in figures.stages if stage.seconds is not None]
    if done:
        yield _times(done)
    if figures.generations:
        yield Table(
            "Engines",
            ("stage", "rows/s", "tokens in", "tokens out", "prefix cache", "engines", "restarts",
             "start", "at work", "tail"),
            [
                (
                    g.stage, fixed(g.rows_per_second), count(g.prompt_tokens),
                    count(g.generated_tokens), percent(g.prefix_cache_share), count(g.num_engines),
                    count(g.num_restarts), fixed(g.start_seconds, 0, " s"), percent(g.occupation),
                    fixed(g.tail_seconds, 0, " s"),
                )
                for g in figures.generations
            ],
            note="At work: share of the engines' time before the last 2% of the rows. Tail: from "
            "98% of the rows, as metrics.jsonl shows them, to the end of the stage.",
        )  # fmt: skip
    failures = _failures(figures.stages)
    if failures:
        yield Table(
            "Outcomes by stage", ("stage", "outcome", "rows", "share"), failures, frozenset({0, 1}),
            is_folded=True,
        )  # fmt: skip


def _times(done: list[tuple[StageFigures, float]]) -> Table:
    total = sum(seconds for _, seconds in done)
    rows: list[Row] = []
    for stage, seconds in done:
        share = seconds / total if total else 0.0
        finished = stage.finished_at.replace("T", " ").removesuffix("Z")
        time, part = duration(seconds), Cell(percent(share), share)
        rows.append((stage.path, count(stage.num_rows), time, part, finished))
    return Table(
        "Time by stage",
        ("stage", "rows", "time", "share", "finished (UTC)"),
        rows,
        frozenset({0, 4}),
        note="A resumed stage's time is that of its last attempt.",
    )


def _failures(stages: list[StageFigures]) -> list[Row]:
    rows: list[Row] = []
    for stage in stages:
        total = sum(stage.outcomes.values())
        for outcome, number in Counter(stage.outcomes).most_common():
            if number:
                share = number / total
                rows.append(
                    (stage.path, in_words(outcome), count(number), Cell(percent(share), share))
                )
    return rows


def setup(figures: RunFigures) -> Iterator[Block]:
    """Stages with their fingerprints and inputs, versions, and every setting."""
    yield Table(
        "Lineage",
        ("stage", "kind", "state", "fingerprint", "made from"),
        [
            (
                stage.path, f"{stage.kind} {stage.version}" if stage.kind else "–",
                Cell(stage.state, emphasis="" if stage.state == "done" else "bad"),
                stage.fingerprint[:SHOWN_FINGERPRINT] or "–", _inputs(stage),
            )
            for stage in figures.stages
        ],
        frozenset({0, 1, 2, 3, 4}),
        note="A fingerprint hashes settings, code version and the content of the inputs.",
        is_folded=True,
    )  # fmt: skip
    if figures.versions:
        yield Table(
            "Versions",
            ("what", "version"),
            [(cut(name, 60), cut(", then ".join(values))) for name, values in
             figures.versions.items()],
            frozenset({0, 1}),
            is_folded=True,
        )  # fmt: skip
    if figures.settings:
        yield Table(
            "Settings",
            ("setting", "value"),
            [(cut(key, 80), setting(value)) for key, value in figures.settings.items()],
            frozenset({0, 1}),
            is_folded=True,
        )


def _inputs(stage: StageFigures) -> str:
    return ", ".join(
        f"{name}: {value[:SHOWN_FINGERPRINT] if len(value) == 64 else value}"
        for name, value in stage.inputs.items()
    )


def missing(figures: RunFigures) -> Iterator[Block]:
    """Counts that do not fit together, and every figure that the run cannot give."""
    for problem in figures.problems:
        yield Paragraph(problem, is_warning=True)
    if figures.not_computed:
        yield Table(
            "Not computed",
            ("figure", "reason"),
            [(entry.what, entry.why) for entry in figures.not_computed],
            frozenset({0, 1}),
        )
