"""The sections of a run's report: tables, charts and texts out of its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from humpback_ray.evaluation.agreement import Estimate
from humpback_ray.evaluation.people.results import (
    PAPER,
    SCREENING_FLOOR,
    JudgeBesidePeople,
    PairResult,
)
from humpback_ray.evaluation.rater_quality import Threshold
from humpback_ray.execution.clock import duration
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Cell, KeyFigure, Paragraph, Row, Section, Table
from humpback_ray.report.figures import (
    FunnelStep,
    Game,
    JudgeFigures,
    RunFigures,
    StageFigures,
)
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.funnel import in_words
from humpback_ray.report.safety_section import safety
from humpback_ray.report.selections import BIN_CHARACTERS
from humpback_ray.report.wording import count, fixed, interval, mean_and_deviation, percent

INTERVALS = "Intervals are of 95%."
SHOWN_FINGERPRINT = 12


def key_figures(figures: RunFigures) -> list[KeyFigure]:
    """The figures of the summary: from documents to examples, and the time."""
    steps = {step.name: step.num_kept for step in figures.funnel}
    names = {"Documents": "documents with segments", "Segments": "segments",
             "Instructions": "instructions written"}  # fmt: skip
    found = [KeyFigure(count(steps[name]), text) for name, text in names.items() if name in steps]
    for scores in figures.scores:
        if scores.num_selected is not None:
            name = f"selected, iteration {scores.iteration}"
            found.append(KeyFigure(count(scores.num_selected), name))
    seconds = sum(stage.seconds or 0.0 for stage in figures.stages)
    return [*found, KeyFigure(duration(seconds), "of work")]


def sections_of(figures: RunFigures) -> list[Section]:
    """Every section that has something to say."""
    parts = [
        ("models", "Models compared", models(figures)),
        ("people", "What people say", people(figures)),
        ("safety", "Refusals", safety(figures.refusals)),
        ("funnel", "From documents to training examples", funnel(figures)),
        ("scores", "Scores and selections", scores(figures)),
        ("rater", "The rater against people", raters(figures)),
        ("training", "Trainings", trainings(figures)),
        ("data", "Lengths, diversity and sources", data(figures)),
        ("engines", "Time, engines and failures", engines(figures)),
        ("setup", "Settings, versions and lineage", setup(figures)),
        ("missing", "Not computed, and what does not fit", missing(figures)),
    ]
    found = [Section(anchor, title, list(blocks)) for anchor, title, blocks in parts]
    return [section for section in found if section.blocks]


# --- models ---------------------------------------------------------------------------------------


def models(figures: RunFigures) -> Iterator[Block]:
    """A judge's games and controls, then the held-out losses."""
    for judge in figures.judges:
        yield from _judge(judge)
    if not figures.losses:
        return
    rows: list[Row] = [
        (
            entry.model, fixed(entry.loss.value, 3), interval(entry.loss), count(entry.loss.n),
            fixed(entry.change.value, 3) if entry.change else "–", interval(entry.change),
            fixed(entry.mean_answer_characters, 0),
        )
        for entry in figures.losses
    ]  # fmt: skip
    yield Table(
        "Loss on held-out seed answers",
        ("model", "nats per token", "interval", "pairs", "change", "interval of the change",
         "characters per answer"),
        rows,
        note="The change is against the model above, on the same pairs; below zero is better. "
        f"{INTERVALS}",
    )  # fmt: skip
    yield charts.intervals(
        "Held-out loss by model",
        "; ".join(f"{e.model} {e.loss.value:.3f} nats" for e in figures.losses),
        "nats per token",
        [charts.Interval(e.model, e.loss.value, e.loss.low, e.loss.high) for e in figures.losses],
    )


def _judge(judge: JudgeFigures) -> Iterator[Block]:
    name = cut(judge.judge)
    if judge.failed_controls:
        failed = ", ".join(judge.failed_controls)
        yield Paragraph(
            f"The judge {name} fails a control: {failed}. No win rate below is a sign of quality.",
            is_warning=True,
        )
    formulas = ", ".join(dict.fromkeys(cut(game.formula) for game in judge.games))
    yield Table(
        f"Win rates by {name}",
        ("model : opponent", "win rate", "interval", "standard error", "judged",
         "orders disagree", "length-controlled", "interval"),
        [_game(game) for game in judge.games],
        note=f"Verdicts by {cut(judge.verdicts_by)}. Win rates in percent; 50 shows no difference. "
        f"{INTERVALS} No score where under 99% of the prompts are judged. Formula of the "
        f"length-controlled win rate: {formulas or 'none'}.",
    )  # fmt: skip
    scored = [game for game in judge.games if game.win_rate is not None]
    if scored:
        yield charts.intervals(
            "Win rates with their intervals",
            "; ".join(f"{g.model} against {g.opponent} {g.win_rate:.1f}%" for g in scored),
            "win rate in %",
            [charts.Interval(_pair(g), g.win_rate or 0.0, g.low, g.high) for g in scored],
            reference=50,
            domain=(0, 100),
        )
    if judge.controls:
        yield Table(
            "Controls of the judge",
            ("control", "win rate", "interval", "judged", "verdict", "rule"),
            [
                (
                    cut(c.name), fixed(c.win_rate, 1), _bounds(c.low, c.high),
                    f"{count(c.num_judged)} of {count(c.num_prompts)}",
                    Cell("passed" if c.passed else "failed", emphasis="good" if c.passed else
                         "bad"),
                    cut(c.rule),
                )
                for c in judge.controls
            ],
            frozenset({0, 4, 5}),
        )  # fmt: skip
    if judge.strengths:
        yield Table(
            "Strengths over all games (Bradley-Terry)",
            ("model", "strength", "interval"),
            [(s.model, fixed(s.strength), _bounds(s.low, s.high, 2)) for s in judge.strengths],
            note="The base is 0; a difference of 1 means odds of e to 1.",
        )


def _pair(game: Game) -> str:
    return f"{game.model} : {game.opponent}"


def _game(game: Game) -> Row:
    return (
        _pair(game), fixed(game.win_rate, 1), _bounds(game.low, game.high),
        fixed(game.standard_error, 1), f"{count(game.num_judged)} of {count(game.num_prompts)}",
        percent(game.order_disagreement), fixed(game.length_controlled_win_rate, 1),
        _bounds(game.length_controlled_low, game.length_controlled_high),
    )  # fmt: skip


def _bounds(low: float | None, high: float | None, digits: int = 1) -> str:
    return "–" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


# --- data -----------------------------------------------------------------------------------------


# --- people ---------------------------------------------------------------------------------------


def people(figures: RunFigures) -> Iterator[Block]:
    """Votes on pairs of answers beside the paper's, a judge beside them, and the agreement."""
    for results in figures.people:
        if results.pairs:
            yield _votes(results.pairs)
        for pair in results.pairs:
            if pair.judge:
                yield Paragraph(_judge_beside(pair, pair.judge))
        if results.labels:
            yield Table(
                "Labels of rated pairs",
                ("score", "in the pool", "good", "bad", "unsure"),
                [
                    (each.stratum, count(each.num_pool), count(each.good), count(each.bad),
                     count(each.unsure))
                    for each in results.labels
                ],
            )  # fmt: skip
        for what, alpha in (("pairs", results.pair_agreement), ("labels", results.label_agreement)):
            if alpha.value is not None:
                yield Paragraph(
                    f"Krippendorff's alpha of {count(alpha.num_items)} {what} with two raters or "
                    f"more: {alpha.value:.2f} ({_bounds(alpha.low, alpha.high, 2)})."
                )
        failed = [rater.rater for rater in results.raters if rater.failed_screening]
        if failed:
            yield Paragraph(
                f"Raters below {SCREENING_FLOOR:.0%} of right answers to screening items, whose "
                f"votes count here: {', '.join(cut(name, 40) for name in failed)} (humpback votes "
                "--without RATER counts without them).",
                is_warning=True,
            )


def _votes(pairs: Sequence[PairResult]) -> Table:
    rows: list[Row] = [
        (
            cut(f"{pair.first} : {pair.second}", 60), count(pair.win.num_items),
            count(pair.num_votes),
            *(percent(share.value) for share in (pair.win, pair.tie, pair.loss, pair.win_rate)),
            _shares(pair.win_rate),
        )
        for pair in pairs
    ]  # fmt: skip
    rows += [
        (f"the paper's Humpback 65B : {opponent}", "–", "–", f"{win}%", f"{tie}%", f"{loss}%",
         f"{win + tie / 2:.1f}%", "–")
        for opponent, (win, tie, loss) in PAPER.items()
    ]  # fmt: skip
    return Table(
        "People's votes",
        ("pair", "items", "votes", "win", "tie", "loss", "win rate", "interval"),
        rows,
        note=f"Of the items, for the first model; a tie is half a win. {INTERVALS}",
    )


def _judge_beside(pair: PairResult, judge: JudgeBesidePeople) -> str:
    rate = judge.rate
    corrected = (
        f"none, because {rate.problem}"
        if rate.problem
        else f"{percent(rate.corrected.value)} ({_shares(rate.corrected)})"
    )
    return (
        f"{cut(pair.first, 40)} : {cut(pair.second, 40)}: the judge agrees with people on "
        f"{percent(judge.agreement.value)} of {count(judge.agreement.num_items)} pairs that both "
        f"decided. Its win rate is {percent(rate.raw.value)} ({_shares(rate.raw)}), and corrected "
        f"for its errors {corrected}."
    )


def _shares(share: Estimate) -> str:
    """The bounds of a share in percent."""
    if share.low is None or share.high is None:
        return "–"
    return f"{share.low:.1%} to {share.high:.1%}"


def funnel(figures: RunFigures) -> Iterator[Block]:
    """The steps with the share kept, then each reason."""
    if not figures.funnel:
        return
    yield Table(
        "What comes in and what stays",
        ("step", "in", "kept", "share kept", "dropped for"),
        [_step(step) for step in figures.funnel],
        frozenset({0, 4}),
        note="Every count is of the records and rows in the run's folder; each step's reasons add "
        "up to what it drops.",
    )
    rows: list[Row] = [
        (
            step.name,
            reason,
            count(number),
            Cell(percent(number / step.num_in), number / step.num_in),
        )
        for step in figures.funnel
        for reason, number in step.reasons.items()
    ]
    if rows:
        columns = ("step", "reason", "dropped", "share of what comes in")
        yield Table("Every reason", columns, rows, frozenset({0, 1}), is_folded=True)


def _step(step: FunnelStep) -> Row:
    share = step.num_kept / step.num_in if step.num_in else 0.0
    reasons = ", ".join(f"{count(number)} {reason}" for reason, number in step.reasons.items())
    what = f"{count(step.num_in)} {step.what}"
    return (step.name, what, count(step.num_kept), Cell(percent(share), share), reasons or "–")


def scores(figures: RunFigures) -> Iterator[Block]:
    """Scores by iteration with histograms, and the overlap of the selections."""
    if not figures.scores:
        return
    yield Table(
        "Scores of the pairs",
        ("iteration", "pairs", "with a score", "mean", "s.d.", "selected", "from score"),
        [
            (
                str(s.iteration), count(s.num_pairs), count(s.scores.n), fixed(s.scores.mean),
                fixed(s.scores.deviation), count(s.num_selected), fixed(s.lowest_selected),
            )
            for s in figures.scores
        ],
    )  # fmt: skip
    for s in figures.scores:
        if s.tenths:
            counts = [(float(tenth), number) for tenth, number in s.tenths.items()]
            best = max(counts, key=lambda entry: entry[1])
            yield charts.bars(
                f"Scores of iteration {s.iteration}"
                + ("; the second colour has selected pairs" if s.lowest_selected else ""),
                f"{count(s.scores.n)} scores from {counts[0][0]:.1f} to {counts[-1][0] + 0.1:.1f}; "
                f"most lie at {best[0]:.1f}. The second colour marks bins with selected pairs.",
                "score",
                counts,
                0.1,
                s.lowest_selected,
            )
    if figures.overlaps:
        yield Table(
            "Selections compared",
            ("iterations", "in both", "gained", "lost", "share of the later one that is new"),
            [
                (
                    f"{o.before} and {o.after}", count(o.num_both), count(o.num_gained),
                    count(o.num_lost),
                    percent(o.num_gained / (o.num_both + o.num_gained)
                            if o.num_both + o.num_gained else None),
                )
                for o in figures.overlaps
            ],
        )  # fmt: skip


def raters(figures: RunFigures) -> Iterator[Block]:
    """Precision and recall at each threshold, and calibration, for each iteration."""
    for rater in figures.raters:
        quality, t = rater.quality, rater.iteration
        unknown = ", ".join(cut(name, 40) for name in quality.unknown)
        yield Paragraph(
            f"Iteration {t}: {count(quality.num_labels)} labels, {count(quality.num_good)} of them "
            f"good; {count(quality.num_unknown)} of ids that {rater.stage} lacks"
            + (f" ({unknown})" if unknown else "")
            + f"; {count(quality.num_unscored)} of pairs without a score; "
            f"{count(quality.num_contradicting)} ids with contradicting labels left out. If the "
            "labels were drawn by score, the figures are those of the drawn pairs and not of all."
        )
        yield Table(
            f"The rater of iteration {t} as a classifier of good pairs",
            ("good from score", "called good", "precision", "interval", "recall", "interval"),
            [_threshold(cut_, rater.selected_from) for cut_ in quality.thresholds],
            note="The paper's raters at its threshold, precision and recall: M_0 0.44 and 0.09, "
            f"M_1 0.52 and 0.44, GPT-4 0.88 and 0.92, of 250 labels. {INTERVALS}",
        )
        yield Table(
            f"Calibration of the scores of iteration {t}",
            ("scores", "mean score", "labels", "good", "interval"),
            [
                (
                    f"{b.lowest:.2f} to {b.highest:.2f}", fixed(b.mean_score), count(b.good.n),
                    percent(b.good.value), interval(b.good, 1, is_share=True),
                )
                for b in quality.calibration
            ],
        )  # fmt: skip
        if len(quality.calibration) > 1:
            yield charts.intervals(
                f"Share of good pairs by score, iteration {t}",
                "; ".join(f"{b.mean_score:.2f}: {b.good.value:.0%}" for b in quality.calibration),
                "share of good pairs",
                [
                    charts.Interval(f"{b.mean_score:.2f}", b.good.value, b.good.low, b.good.high)
                    for b in quality.calibration
                ],
                domain=(0, 1),
            )


def _threshold(at: Threshold, selected_from: float | None) -> Row:
    precision, recall = at.precision, at.recall
    name = f"{at.threshold:.2f}" + (" (selection)" if at.threshold == selected_from else "")
    return (
        name, count(at.num_called_good),
        percent(precision.value if precision else None), interval(precision, 1, is_share=True),
        percent(recall.value if recall else None), interval(recall, 1, is_share=True),
    )  # fmt: skip


def trainings(figures: RunFigures) -> Iterator[Block]:
    """Every training in a table, and the curves: those of the models that answer in one chart."""
    if not figures.trainings:
        return
    yield Table(
        "Trainings",
        ("model", "stage", "examples", "steps", "first loss", "last loss", "tokens per second",
         "peak GiB", "MFU"),
        [
            (
                t.model, t.stage, count(t.num_examples), count(t.num_steps),
                fixed(t.losses[0][1] if t.losses else None, 3),
                fixed(t.losses[-1][1] if t.losses else None, 3),
                count(t.tokens_per_second), fixed(t.peak_memory_gib, 1), percent(t.mfu),
            )
            for t in figures.trainings
        ],
        frozenset({0, 1}),
        note="Losses in nats per token of the training batches. Tokens per second and MFU (model "
        "flops over the device's peak) are medians over the steps.",
    )  # fmt: skip
    curves = {t.model: t.losses for t in figures.trainings if t.losses}
    forward = {name: c for name, c in curves.items() if name.startswith("M_") and name != "M_yx"}
    groups = {"models that answer": forward} if forward else {}
    groups |= {name: {name: curve} for name, curve in curves.items() if name not in forward}
    for name, series in groups.items():
        ends = "; ".join(f"{model} ends at {curve[-1][1]:.3f}" for model, curve in series.items())
        yield charts.lines(f"Training loss: {name}", ends, ("step", "nats per token"), series)


def data(figures: RunFigures) -> Iterator[Block]:
    """Lengths beside the paper's, diversity, and sources."""
    if figures.lengths:
        yield Table(
            "Lengths in characters, mean ± s.d. (the paper's Table 1)",
            ("set", "pairs", "instruction", "response", "paper: pairs", "instruction", "response"),
            [
                (
                    entry.name, count(entry.responses.n),
                    mean_and_deviation(entry.instructions.mean, entry.instructions.deviation),
                    mean_and_deviation(entry.responses.mean, entry.responses.deviation),
                    *_paper(entry.paper),
                )
                for entry in figures.lengths
            ],
            note="A_4 and A_5 are the pairs with scores of at least 4 and 4.5; what is selected "
            "stands below them. The paper gives no figures for its first iteration.",
        )  # fmt: skip
        yield from _length_chart(figures)
    if figures.diversity:
        yield Table(
            "Diversity of the instructions",
            ("set", "instructions", "compared", "words", "distinct words", "distinct pairs",
             "distinct trigrams", "repeated"),
            [
                (
                    d.name, count(d.of), count(d.n), count(d.num_words), *map(percent, d.distinct),
                    percent(d.repeated_share),
                )
                for d in figures.diversity
            ],
            note="Distinct: different n-grams of words over all n-grams, in equally many "
            "instructions of each set, drawn at random. Repeated: instructions of the whole set "
            "whose text, up to case and spaces, another one has.",
        )  # fmt: skip
    if figures.sources:
        total = sum(source.num_segments for source in figures.sources)
        yield Table(
            "Sources of the segments",
            ("source", "segments", "share", "selected last"),
            [
                (
                    cut(source.name, 80), count(source.num_segments),
                    Cell(percent(source.num_segments / total), source.num_segments / total),
                    count(source.num_selected),
                )
                for source in figures.sources
            ],
            is_folded=True,
        )  # fmt: skip


def _paper(paper: Any) -> Row:
    if paper is None:
        return ("–", "–", "–")
    return (
        count(paper.n), mean_and_deviation(paper.x_mean, paper.x_deviation),
        mean_and_deviation(paper.y_mean, paper.y_deviation),
    )  # fmt: skip


def _length_chart(figures: RunFigures) -> Iterator[Block]:
    selected = [entry for entry in figures.lengths if entry.name.startswith("selected")]
    shown = [entry for entry in figures.lengths if entry.name in ("seed", "A")] + selected[-1:]
    series = {
        entry.name: [
            (float(first) + BIN_CHARACTERS / 2, number / entry.responses.n)
            for first, number in entry.response_bins.items()
        ]
        for entry in shown
        if len(entry.response_bins) > 1
    }
    if series:
        yield charts.lines(
            "Lengths of responses",
            "; ".join(f"{e.name}: mean {fixed(e.responses.mean, 0)} characters" for e in shown),
            ("characters", f"share per {BIN_CHARACTERS}"),
            series,
        )


# --- the run --------------------------------------------------------------------------------------


def engines(figures: RunFigures) -> Iterator[Block]:
    """Time by stage, the engines' work, and every outcome that is a failure."""
    done = [stage for stage in figures.stages if stage.seconds is not None]
    total = sum(stage.seconds or 0.0 for stage in done)
    if done:
        yield Table(
            "Time by stage",
            ("stage", "rows", "time", "share", "finished (UTC)"),
            [
                (
                    stage.path, count(stage.num_rows), duration(stage.seconds or 0.0),
                    Cell(percent((stage.seconds or 0.0) / total if total else 0.0),
                         (stage.seconds or 0.0) / total if total else 0.0),
                    stage.finished_at.replace("T", " ").removesuffix("Z"),
                )
                for stage in done
            ],
            frozenset({0, 4}),
            note="A resumed stage's time is that of its last attempt.",
        )  # fmt: skip
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


def setting(value: Any) -> str:
    """A setting's value in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return cut(", ".join(map(str, value)))
    return cut(str(value)) or "(empty)"


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
