"""Results of people's votes: wins with intervals, agreement, raters' habits, a judge beside them.

Screening items and repeats measure raters and count for no model. Where several raters saw an
item, the item counts once, with the share of its votes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation import agreement
from humpback_ray.evaluation.agreement import CorrectedRate, Pace
from humpback_ray.evaluation.estimates import Estimate, share_of, weighted_mean
from humpback_ray.evaluation.model_outputs import prompt_key
from humpback_ray.evaluation.people.judged import (
    Names,
    of_pair,
    read_annotations,
    read_failed_controls,
)
from humpback_ray.evaluation.people.study import Kind, Study, load_all
from humpback_ray.evaluation.people.votes import SKIP, Vote, counted, read_votes
from humpback_ray.evaluation.win_rates import is_enough_judged

FLOOR_SECONDS = 3.0  # a vote before that was hardly given after reading
SCREENING_FLOOR = 0.85  # the paper took raters who agreed with its authors more often
ANNOTATOR = "humans"
# Wins, ties and losses of Humpback 65B by people, in percent (paper, human preference evaluation).
PAPER = {
    "LIMA 65B": (55.6, 6.7, 37.8),
    "Guanaco 65B": (59.6, 11.0, 29.4),
    "Claude": (59.4, 7.5, 33.1),
    "text-davinci-003": (66.7, 13.5, 19.8),
}


@dataclass(frozen=True)
class JudgeBesidePeople:
    """A judge's win rate and its correction by people's votes on the same pairs."""

    rate: CorrectedRate  # of the pairs that the judge decides
    agreement: Estimate | None
    num_ties: int  # pairs that people or the judge left undecided, or without a verdict
    num_prompts: int  # of the judge's game
    num_judged: int
    failed_controls: tuple[str, ...] | None  # None: nobody knows, as of files from elsewhere


@dataclass(frozen=True)
class PairResult:
    """Votes on two models, as shares of items for the first one."""

    first: str
    second: str
    num_items: int
    num_votes: int
    win: Estimate | None
    tie: Estimate | None
    loss: Estimate | None
    win_rate: Estimate | None  # ties as half a win
    judge: JudgeBesidePeople | None


@dataclass(frozen=True)
class RaterResult:
    """One rater's habits."""

    rater: str
    num_votes: int
    num_skipped: int
    screening: Estimate | None  # right answers
    consistency: Estimate | None  # the same vote on repeated items, whose sides are swapped
    left: Estimate | None
    pace: Pace

    @property
    def failed_screening(self) -> bool:
        """The rater gave fewer right answers than the paper asked for."""
        return self.screening is not None and self.screening.value < SCREENING_FLOOR


@dataclass(frozen=True)
class LabelResult:
    """Labels of the rated pairs in one stratum of the score."""

    stratum: str
    num_pool: int
    good: int
    bad: int
    unsure: int  # by the rater, or because raters disagree


@dataclass(frozen=True)
class PeopleResults:
    """Everything that the votes of a folder say."""

    pairs: list[PairResult]
    pair_agreement: Estimate | None  # Krippendorff's alpha
    labels: list[LabelResult]
    label_agreement: Estimate | None
    raters: list[RaterResult]
    reasons: dict[str, int]  # for skipping
    num_undone: int
    num_unreadable: int


@dataclass(frozen=True)
class People:
    """A folder's studies and standing votes."""

    studies: Mapping[str, Study]
    votes: Sequence[Vote]
    num_undone: int
    num_unreadable: int


def read_people(folder: str, without: Iterable[str] = ()) -> People:
    """Read a folder of studies and votes.

    Args:
        without: raters whose votes are left out.

    Raises:
        UserError: the folder has no vote, or such a rater has none.
    """
    every, num_unreadable = read_votes(folder)
    standing = counted(every)
    if not standing:
        raise UserError(
            f"no votes in {folder}: collect some with `humpback annotate`, or add a file that a "
            "rater sent back with --add FILE"
        )
    raters = {vote.rater for vote in standing}
    left_out = set(without)
    if unknown := left_out - raters:
        raise UserError(
            f"--without {', '.join(sorted(unknown))}: no such rater; votes are from "
            f"{', '.join(sorted(raters))}"
        )
    if left_out == raters:
        raise UserError(f"--without {', '.join(sorted(left_out))}: no rater remains; name fewer")
    kept = [vote for vote in standing if vote.rater not in left_out]
    num_undone = sum(vote.undone for vote in every if vote.rater not in left_out)
    return People(load_all(folder), kept, num_undone, num_unreadable)


def summarize(people: People, run_folder: str) -> PeopleResults:
    """Count the votes of a folder, beside the run's judge where it has one."""
    voted = _decided(people.votes)
    pairs = [vote for vote in voted if vote.kind == Kind.PAIR]
    labels = [vote for vote in voted if vote.kind == Kind.LABEL]
    games = _games(people.studies, pairs)
    annotations, failed = read_annotations(run_folder), read_failed_controls(run_folder)
    return PeopleResults(
        pairs=[
            _pair(names, votes, of_pair(annotations, names), failed)
            for names, votes in games.items()
        ],
        pair_agreement=_alpha(
            (vote, _role(vote, names)) for names, votes in games.items() for vote in votes
        ),
        labels=_labels(people.studies, labels),
        label_agreement=_alpha((vote, vote.choice) for vote in labels),
        raters=_raters(people.votes),
        reasons=dict(Counter(vote.reason for vote in people.votes if vote.choice == SKIP)),
        num_undone=people.num_undone,
        num_unreadable=people.num_unreadable,
    )


def _decided(votes: Iterable[Vote]) -> list[Vote]:
    """One vote of each rater on each item: no screening, no repeat, no skip; the last one."""
    last = {
        (vote.rater, vote.item_id): vote
        for vote in votes
        if not vote.is_screening and not vote.is_repeat
    }
    return [vote for vote in last.values() if vote.choice != SKIP]


def _by_item(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    items = defaultdict(list)
    for vote in votes:
        items[vote.item_id].append(vote)
    return items


def _alpha(values: Iterable[tuple[Vote, str]]) -> Estimate | None:
    items = defaultdict(list)
    for vote, value in values:
        items[vote.item_id].append(value)
    return agreement.krippendorff_alpha(list(items.values()))


# --- pairs ----------------------------------------------------------------------------------------


def _games(studies: Mapping[str, Study], votes: Iterable[Vote]) -> dict[Names, list[Vote]]:
    """Votes by pair of models, in the order of the models in the study."""
    games = defaultdict(list)
    for vote in votes:
        study = studies.get(vote.study)
        item = study.items.get(vote.item_id) if study else None
        names = list(item.texts) if item else sorted((vote.left_model, vote.right_model))
        games[names[0], names[1]].append(vote)
    return games


def _role(vote: Vote, names: Names) -> str:
    """The vote for the first model of a pair: win, tie or loss."""
    return {names[0]: "win", names[1]: "loss"}.get(vote.chosen, "tie")


def _pair(
    names: Names,
    votes: Sequence[Vote],
    annotations: Sequence[Mapping[str, Any]],
    failed_controls: tuple[str, ...] | None,
) -> PairResult:
    items = _by_item(votes)
    shares = {
        role: [_share(on_item, names, role) for on_item in items.values()]
        for role in ("win", "tie", "loss")
    }
    win_rates = [w + t / 2 for w, t in zip(shares["win"], shares["tie"], strict=True)]
    return PairResult(
        *names,
        num_items=len(items),
        num_votes=len(votes),
        win=_mean(shares["win"]),
        tie=_mean(shares["tie"]),
        loss=_mean(shares["loss"]),
        win_rate=_mean(win_rates),
        judge=_judge(names, items, annotations, failed_controls),
    )


def _mean(shares: Sequence[float]) -> Estimate | None:
    return weighted_mean(shares, limits=(0.0, 1.0))


def _share(votes: Sequence[Vote], names: Names, role: str) -> float:
    return sum(_role(vote, names) == role for vote in votes) / len(votes)


def _judge(
    names: Names,
    items: Mapping[str, Sequence[Vote]],
    annotations: Sequence[Mapping[str, Any]],
    failed_controls: tuple[str, ...] | None,
) -> JudgeBesidePeople | None:
    """The judge on the same two models; None where the run's judge has not compared them.

    A judge that lacks verdicts on more than 1% of its prompts has no win rate here either.
    """
    verdicts = {prompt_key(row["instruction"]): _is_win(row["preference"]) for row in annotations}
    if not verdicts:
        return None
    num_judged = sum(row["preference"] is not None for row in annotations)
    decided = [win for win in verdicts.values() if win is not None]
    both, num_ties = [], 0
    for votes in items.values():
        margin = _share(votes, names, "win") - _share(votes, names, "loss")
        prompt = prompt_key(votes[0].instruction)
        verdict = verdicts.get(prompt)
        if margin and verdict is not None:
            both.append((margin > 0, verdict))
        elif prompt in verdicts:
            num_ties += 1
    errors = agreement.judge_errors(both)
    if is_enough_judged(num_judged, len(annotations)):
        rate = agreement.corrected_rate(sum(decided), len(decided), errors)
    else:
        problem = f"only {num_judged:,} of {len(annotations):,} prompts are judged"
        rate = CorrectedRate(None, None, errors, problem)
    return JudgeBesidePeople(
        rate, errors.agreement, num_ties, len(annotations), num_judged, failed_controls
    )


def _is_win(preference: float | None) -> bool | None:
    """True where the judge lets the first model win; None for a draw or no verdict."""
    if preference is None or preference in (0, 1.5):  # older files: 0 is a draw
        return None
    return preference > 1.5


# --- labels and raters ----------------------------------------------------------------------------


def majority_labels(votes: Iterable[Vote]) -> dict[str, str]:
    """A label for each candidate: the one that more raters gave, `unsure` where none is."""
    labels = {}
    for candidate, on_item in _by_item(v for v in votes if v.kind == Kind.LABEL).items():
        counts = Counter(vote.choice for vote in on_item)
        margin = counts["good"] - counts["bad"]
        labels[candidate] = "good" if margin > 0 else "bad" if margin < 0 else "unsure"
    return labels


def _labels(studies: Mapping[str, Study], votes: Sequence[Vote]) -> list[LabelResult]:
    items = {name: item for study in studies.values() for name, item in study.items.items()}
    pool: dict[str, int] = {}
    for study in studies.values():
        pool.update(study.pool)
    strata: dict[str, Counter[str]] = {stratum: Counter() for stratum in pool}
    for candidate, label in majority_labels(votes).items():
        stratum = items[candidate].stratum if candidate in items else "unknown"
        strata.setdefault(stratum, Counter())[label] += 1
    return [
        LabelResult(stratum, pool.get(stratum, 0), n["good"], n["bad"], n["unsure"])
        for stratum, n in sorted(strata.items())
    ]


def _raters(votes: Sequence[Vote]) -> list[RaterResult]:
    return [
        _rater(rater, [vote for vote in votes if vote.rater == rater])
        for rater in sorted({vote.rater for vote in votes})
    ]


def _rater(rater: str, votes: Sequence[Vote]) -> RaterResult:
    screened = [vote for vote in votes if vote.is_screening and vote.choice != SKIP]
    first = {
        (vote.study, vote.item_id): vote.chosen
        for vote in votes
        if not vote.is_repeat and vote.choice != SKIP
    }
    twice = [
        (first[vote.study, vote.item_id], vote.chosen)
        for vote in votes
        if vote.is_repeat and vote.choice != SKIP and (vote.study, vote.item_id) in first
    ]
    return RaterResult(
        rater=rater,
        num_votes=len(votes),
        num_skipped=sum(vote.choice == SKIP for vote in votes),
        screening=share_of(sum(vote.choice == vote.known for vote in screened), len(screened)),
        consistency=agreement.self_consistency(twice),
        left=agreement.left_share([vote.choice for vote in votes if not vote.is_screening]),
        pace=agreement.pace([vote.seconds for vote in votes], FLOOR_SECONDS),
    )


# --- files ----------------------------------------------------------------------------------------


def export(people: People, folder: str, run_folder: str | None = None) -> list[str]:
    """Write votes, alpaca_eval's annotations and labels; returns the files that were written.

    Args:
        run_folder: of the run whose judge's annotations of the same pairs are written too.
    """
    annotations = read_annotations(run_folder) if run_folder else []
    files = {"votes.jsonl": _lines(asdict(vote) for vote in people.votes)}
    voted = _decided(people.votes)
    games = _games(people.studies, (vote for vote in voted if vote.kind == Kind.PAIR))
    for names, votes in games.items():
        name = "-".join(name.replace("/", "_") for name in names)
        for of, rows in (("", alpaca_eval_rows(names, votes)),
                         ("judge/", of_pair(annotations, names))):  # fmt: skip
            if rows:
                files[f"{name}/{of}annotations.json"] = json.dumps(rows, indent=2) + "\n"
    labels = {c: label for c, label in majority_labels(voted).items() if label != "unsure"}
    if labels:
        rows = [{"candidate_id": c, "label": label} for c, label in sorted(labels.items())]
        files["labels.jsonl"] = _lines(rows)
    with storage.explained(folder):
        for file, text in files.items():
            storage.write_text(storage.join(folder, file), text)
    return [storage.join(folder, file) for file in files]


def alpaca_eval_rows(names: Names, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Votes in alpaca_eval's format: the first model is `2`, the mean over an item's raters."""
    first, second = names
    rows = []
    for on_item in _by_item(votes).values():
        vote = on_item[0]
        texts = {vote.left_model: vote.left, vote.right_model: vote.right}
        win_rate = _share(on_item, names, "win") + _share(on_item, names, "tie") / 2
        rows.append(
            {
                "instruction": vote.instruction,
                "output_1": texts[second],
                "generator_1": second,
                "output_2": texts[first],
                "generator_2": first,
                "dataset": vote.dataset,
                "annotator": ANNOTATOR,
                "preference": 1 + win_rate,
            }
        )
    return rows


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
