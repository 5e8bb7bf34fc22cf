"""A finished run against the truth: answers, instructions, ratings, marks of the tags."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proof import arms, closed_book, marks, web
from benchmarks.proof.facts import World
from benchmarks.proof.kinds import Group, Kind, answer, group_of
from benchmarks.proof.questions import Asked, read_questions
from benchmarks.proof.significance import clustered_mean
from benchmarks.proof.spoiling import Spoiling
from benchmarks.proof.truth import Grade, grade_answer, preference, read_instruction, statements
from humpback_ray import storage, tables
from humpback_ray.config.recipe import Recipe
from humpback_ray.evaluation import rater_quality, scaling, win_rates
from humpback_ray.execution.stage import read_record
from humpback_ray.rows import Candidate, Evaluated, RatedPair, SeedPair, TaskKind

NUM_MARKED = 200  # questions whose tag marks are measured
NUM_OF_BASE = 400  # questions that the base answers by itself, under each tag
NUM_LIKELIHOODS = 1200  # pairs whose likelihood is measured
PAIRS = (("M_0", "base"), ("M_1", "M_0"), ("M_2", "M_1"), ("M_2", "M_0"), ("M_2", "random"),
         ("M_1", "random"), ("oracle", "random"), ("true_instructions", "oracle"),
         ("M_2", "web_only"), ("M_2", "best_quarter"), ("M_2", "best_double"),
         ("random_double", "random"), ("M_2", "M_2-S_a"), ("M_2", "M_2-S_w"),
         ("M_2", "M_2-none"))  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """One model's answers to the held-out questions, with the judge's findings."""

    texts: Sequence[str]  # in the order of the questions
    grades: Sequence[Grade]

    def correct(self, places: Sequence[int]) -> np.ndarray:
        return np.array([self.grades[at].is_correct for at in places], np.float64)


@dataclass(frozen=True)
class Measured:
    """A run's folder, its recipe, and the truth."""

    run: str
    recipe: Recipe
    world: World
    asked: Sequence[Asked]
    truths: Mapping[str, web.Truth]

    @property
    def once(self) -> list[int]:
        """Places of the questions' first samples."""
        return [at for at, each in enumerate(self.asked) if each.sample == 0]

    def folder(self, *parts: str) -> str:
        return storage.join(self.run, *parts)

    def names(self) -> list[str]:
        """Models that have answered: the run's own in order, then arms."""
        own = ["base", *(f"M_{t}" for t in range(self.recipe.settings.iterations + 1))]
        return [*own, *arms.arms_in(self.run, own[-1])]

    def answers(self, name: str) -> Answers:
        rows = tables.read_rows(self.folder("evaluation", name, "rows"), Evaluated)
        by_task = {row.task_id: row.output for row in rows if row.kind is TaskKind.ANSWER}
        texts = [by_task[f"prompt-{at:05}"] for at in range(len(self.asked))]
        grades = [
            grade_answer(self.world, each.question, text)
            for each, text in zip(self.asked, texts, strict=True)
        ]
        return Answers(texts, grades)


def measured(run: str, recipe: Recipe, world: World, inputs: Path) -> Measured:
    """A finished run with the truth about its inputs."""
    truths = web.read_truths(inputs / "truths.jsonl")
    return Measured(run, recipe, world, read_questions(inputs), truths)


def of_rows(m: Measured) -> dict[str, Any]:
    """The figures that the rows of a run hold, as JSON."""
    answers = {name: m.answers(name) for name in m.names()}
    pool = arms.read_pool(m.run, m.recipe, m.truths)
    iterations = range(1, m.recipe.settings.iterations + 1)
    return {
        "models": {name: _accuracy(m, each) for name, each in answers.items()},
        "differences": _differences(m, answers),
        "win_rates": _win_rates(m, answers),
        "scaling": _scaling(m, answers),
        "pass_at_n": {name: _pass_at_n(m, each) for name, each in answers.items()},
        "segments": _segments(m),
        "backward": _backward(m),
        "rater": {f"M_{t - 1}": _rater(m, pool, t) for t in iterations},
        "methods": _methods(m, pool),
        "selected": {f"A_{t}": _selected(m, pool, t) for t in iterations},
        "seconds": _seconds(m),
    }


def of_models(m: Measured) -> dict[str, Any]:
    """The figures that the models' probabilities give, as JSON."""
    pool = arms.read_pool(m.run, m.recipe, m.truths)
    scorers = {name: marks.Scorer(m.folder(path)) for name, path in _model_folders(m).items()}
    return {
        "likelihood": _likelihoods(m, pool, scorers),
        "marks": {name: _marks(m, scorer) for name, scorer in scorers.items()},
        "closed_book": closed_book.known_shares(m.world, scorers["base"]),
        "base_answers": closed_book.answered_shares(
            m.world,
            [m.asked[at] for at in m.once[:NUM_OF_BASE]],
            scorers["base"],
            m.recipe.settings.prompts,
        ),
    }


# --- answers ------------------------------------------------------------------------------------


def _groups(m: Measured) -> dict[str, list[int]]:
    """Places of the questions of each group and kind, and of all."""
    found: dict[str, list[int]] = {"all": m.once}
    for group in Group:
        found[group.value] = [at for at in m.once if m.asked[at].group is group]
    for kind in Kind:
        found[f"kind: {kind.value}"] = [at for at in m.once if m.asked[at].question.kind is kind]
    return found


def _clusters(m: Measured, places: Sequence[int]) -> list[str]:
    return [m.asked[at].question.about for at in places]


def _accuracy(m: Measured, answers: Answers) -> dict[str, Any]:
    """Correct answers of each group, and what the others fail in."""
    found: dict[str, Any] = {}
    for name, places in _groups(m).items():
        mean = clustered_mean(answers.correct(places), _clusters(m, places))
        parts = {
            part: 100 * float(np.mean([getattr(answers.grades[at], part) for at in places]))
            for part in ("is_right", "is_complete", "is_of_kind", "is_direct")
        }
        found[name] = {**asdict(mean), **parts}
    said = [statements(answers.texts[at]) for at in m.once]
    found["marks"] = {
        "source_share": float(np.mean([each.has_source_phrase for each in said])),
        "closing_share": float(np.mean([each.has_closing_phrase for each in said])),
    }
    return found


def _differences(m: Measured, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Paired differences on the same questions, by group."""
    found: dict[str, Any] = {}
    for model, other in PAIRS:
        if model in answers and other in answers:
            found[f"{model} - {other}"] = {
                name: _difference(m, answers[model], answers[other], places)
                for name, places in _groups(m).items()
                if not name.startswith("kind")
            }
    return found


def _difference(
    m: Measured, model: Answers, other: Answers, places: Sequence[int]
) -> dict[str, float]:
    values = model.correct(places) - other.correct(places)
    mean = clustered_mean(values, _clusters(m, places))
    return {
        **asdict(mean),
        "p": mean.p_above_zero,
        "smallest_visible": mean.smallest_visible,
        "discordant": float(np.mean(values != 0)),
    }


def _win_rates(m: Measured, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """The pairwise judge that knows the truth."""
    found: dict[str, Any] = {}
    for model, other in PAIRS:
        if model in answers and other in answers:
            rate = win_rates.win_rate(_preferences(m, answers[model], answers[other]))
            found[f"{model} : {other}"] = None if rate is None else asdict(rate)
    return found


def _preferences(m: Measured, model: Answers, other: Answers) -> list[float]:
    return [
        preference(m.world, m.asked[at].question, model.texts[at], other.texts[at]) for at in m.once
    ]


def _scaling(m: Measured, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Win rates over M_0 by the number of web pairs, and the line w = alpha * ln N + C."""
    n = m.recipe.settings.selection.num_best
    last = f"M_{m.recipe.settings.iterations}"
    found: dict[str, Any] = {}
    for name, sizes in (
        ("selected", {"best_quarter": n // 4, last: n, "best_double": 2 * n}),
        ("uncurated", {"random": n, "random_double": 2 * n}),
    ):
        rates = {
            str(size): 100 * float(np.mean(_preferences(m, answers[model], answers["M_0"])))
            for model, size in sizes.items() if model in answers
        }  # fmt: skip
        fitted = scaling.fit(list(map(int, rates)), list(rates.values()))
        if fitted:
            found[name] = {"win_rates": rates, **asdict(fitted)}
    return found


def _pass_at_n(m: Measured, answers: Answers) -> dict[str, float]:
    """Shares of the repeated questions that are right at once, and at least once."""
    samples: dict[str, list[bool]] = defaultdict(list)
    for each, grade in zip(m.asked, answers.grades, strict=True):
        samples[each.instruction].append(grade.is_correct)
    repeated = [each for each in samples.values() if len(each) > 1]
    if not repeated:
        return {}
    return {
        "n": len(repeated[0]), "num_questions": len(repeated),
        "pass_at_1": 100 * float(np.mean([np.mean(each) for each in repeated])),
        "pass_at_n": 100 * float(np.mean([any(each) for each in repeated])),
    }  # fmt: skip


# --- segments and instructions ------------------------------------------------------------------


def _segments(m: Measured) -> dict[str, Any]:
    """Numbers of sections that the product kept: copies that stay, others that are lost."""
    rows = tables.read_table(m.folder("segments", "rows"), ["segment_id"])["segment_id"]
    kept = [m.truths[each] for each in rows.to_pylist()]
    copies = sum(each.is_copy for each in m.truths.values())
    return {
        "num_sections": len(m.truths), "num_kept": len(kept), "num_copies": copies,
        "num_dropped": len(m.truths) - len(kept), "num_good": sum(each.is_good for each in kept),
    }  # fmt: skip


def _backward(m: Measured) -> dict[str, Any]:
    """Instructions of M_yx: the kind, and all of the question, right; on good segments and all."""
    rows = tables.read_rows(m.folder("candidates", "rows"), Candidate)
    found: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for row in rows:
        truth, asked = m.truths[row.segment_id], read_instruction(row.instruction)
        is_kind = asked is not None and asked.kind is truth.question.kind
        hit = (is_kind, asked is not None and asked.means(truth.question))
        found[f"spoiling: {truth.spoiling.value}"].append(hit)
        if truth.is_good:
            found["good"].append(hit)
            found[f"good, {group_of(truth.question.kind).value}"].append(hit)
            found[f"kind: {truth.question.kind.value}"].append(hit)
    unread = sum(read_instruction(row.instruction) is None for row in rows)
    return {
        "num_candidates": len(rows), "share_of_no_known_form": unread / len(rows),
        **{name: {"n": len(hits), "kind": float(np.mean([kind for kind, _ in hits])),
                  "whole": float(np.mean([whole for _, whole in hits]))}
           for name, hits in sorted(found.items())},
    }  # fmt: skip


# --- ratings ------------------------------------------------------------------------------------


def _rated(m: Measured, iteration: int) -> list[RatedPair]:
    return tables.read_rows(m.folder(f"iter-{iteration}", "rated", "rows"), RatedPair)


def _rater(m: Measured, pool: arms.Pool, iteration: int) -> dict[str, Any]:
    """Precision and recall of good pairs at each threshold and at the selection; calibration."""
    pairs = _rated(m, iteration)
    label = {pair.candidate_id: pool.is_good(pair) for pair in pairs}
    labels = rater_quality.Labels(
        {name: rater_quality.Label.GOOD if good else rater_quality.Label.BAD
         for name, good in label.items()}, 0,
    )  # fmt: skip
    ranked = sorted(
        (pair for pair in pairs if pair.score is not None),
        key=lambda pair: (-(pair.score or 0), pair.candidate_id),
    )
    lowest = ranked[: pool.num_selected][-1].score
    quality = rater_quality.measure(
        ((pair.candidate_id, pair.score) for pair in pairs), labels, lowest
    )
    return {
        **asdict(quality),
        "base_rate": float(np.mean(list(label.values()))),
        "area": area_under_curve([p.score or 0 for p in ranked],
                                 [label[p.candidate_id] for p in ranked]),
    }  # fmt: skip


def _methods(m: Measured, pool: arms.Pool) -> dict[str, Any]:
    """M_0's ratings of the same pairs by each method that was run, and what they cost."""
    own = {m.recipe.settings.rating.method: m.folder("iter-1", "rated")}
    others = {method: m.folder(f"{arms.RATED}-{method}") for method in arms.RATINGS}
    found = {}
    for method, folder in (others | own).items():
        if (record := read_record(folder)) is None:
            continue
        pairs = tables.read_rows(storage.join(folder, "rows"), RatedPair)
        ranked = sorted((p for p in pairs if p.score is not None),
                        key=lambda p: (-(p.score or 0), p.candidate_id))  # fmt: skip
        good = [pool.is_good(pair) for pair in ranked]
        # A pass that was killed after its last row, and resumed, has no time of its engines.
        busy = record.figures.get("engines", {}).get("busy_seconds")
        found[method] = {
            "num_scored": len(ranked),
            "precision": float(np.mean(good[: pool.num_selected])) if good else None,
            "area": area_under_curve([pair.score or 0 for pair in ranked], good),
            "milliseconds_per_pair": 1000 * busy / len(pairs) if busy else None,
        }
    return found


def area_under_curve(scores: Sequence[float], are_good: Sequence[bool]) -> float | None:
    """The chance that a good pair has a higher score than a bad one; ties count half."""
    from scipy.stats import rankdata

    good = np.asarray(are_good, bool)
    num_good, num_bad = int(good.sum()), int((~good).sum())
    if not num_good or not num_bad:
        return None
    ranks = rankdata(scores)
    return float((ranks[good].sum() - num_good * (num_good + 1) / 2) / (num_good * num_bad))


def _selected(m: Measured, pool: arms.Pool, iteration: int) -> dict[str, Any]:
    """The contents of A_k: good pairs, spoilings, kinds; false facts are reported apart."""
    path = storage.join(m.folder(f"iter-{iteration}", "examples", "rows"))
    web_ids = {row["example_id"].removeprefix("web-") for batch in tables.scan(path)
               for row in batch.to_pylist() if row["origin"] == "web"}  # fmt: skip
    chosen = [pair for pair in _rated(m, iteration) if pair.candidate_id in web_ids]
    truths = [m.truths[pair.segment_id] for pair in chosen]
    everywhere = Counter(m.truths[pair.segment_id].spoiling for pair in pool.pairs)
    taken = Counter(truth.spoiling for truth in truths)
    return {
        "n": len(chosen),
        "precision": float(np.mean([pool.is_good(pair) for pair in chosen])),
        "good_sections": float(np.mean([truth.is_good for truth in truths])),
        "share_selected": {each.value: taken[each] / everywhere[each] for each in Spoiling
                           if everywhere[each]},
        "kinds": Counter(truth.question.kind.value for truth in truths),
        "copies": sum(truth.is_copy for truth in truths),
    }  # fmt: skip


def _likelihoods(
    m: Measured, pool: arms.Pool, scorers: Mapping[str, marks.Scorer]
) -> dict[str, float | None]:
    """The area under the curve of log p(y|x) - log p(y), a rating without a rubric."""
    pairs = random.Random(0).sample(pool.whole, min(NUM_LIKELIHOODS, len(pool.whole)))
    tags = (m.recipe.settings.prompts.seed_tag, m.recipe.settings.prompts.web_tag)
    good = [pool.is_good(pair) for pair in pairs]
    texts = [(pair.instruction, pair.response) for pair in pairs]
    return {
        name: area_under_curve(marks.likelihood_gains(scorer, texts, tags), good)
        for name, scorer in scorers.items()
        if name != "base"
    }


# --- marks and times ----------------------------------------------------------------------------


def _model_folders(m: Measured) -> dict[str, str]:
    return {
        "base": "base/model", "M_0": "forward-0/model",
        **{f"M_{t}": f"iter-{t}/model" for t in range(1, m.recipe.settings.iterations + 1)},
    }  # fmt: skip


def _marks(m: Measured, scorer: marks.Scorer) -> dict[str, Any]:
    drawn = random.Random(0)
    asked = [m.asked[at] for at in m.once[:NUM_MARKED]]
    texts = [each.instruction for each in asked]
    good = [" ".join(answer(m.world, each.question, drawn)) for each in asked]
    found = marks.mark_probabilities(scorer, texts, good, m.recipe.settings.prompts)
    seed = tables.read_rows(m.folder("seed", "rows"), SeedPair)
    # Those that it was trained on: a model that learns to write requests learns these first.
    learnt = [pair.instruction for pair in seed]
    return {"tags": found, "request_loss": marks.request_loss(scorer, learnt)}


def _seconds(m: Measured) -> dict[str, float]:
    found = {}
    for path in sorted(Path(m.run).rglob("record.json")):
        stage = str(path.parent.relative_to(m.run))
        record = read_record(str(path.parent))
        if record is not None:
            found[stage] = record.seconds
    return found
