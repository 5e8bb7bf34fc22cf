"""A study: its items, and the order in which each rater sees them.

Order and sides are drawn by hashes of (seed, rater, item), so the same command draws the same
study again, and `plan.json` records what was drawn. A study's id hashes its settings and texts, so
new answers of a model make a new study beside the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from humpback_ray import storage

PLAN = "plan.json"
RESPONSE = "response"  # name of the only text of a label's item
BETTER, WORSE = "better", "worse"  # names of the texts of a screening pair
MIN_REPEATED = 10  # a sheet of fewer items repeats none, because raters would recognise them


class Kind(StrEnum):
    """The kind of a rater's decision about an item."""

    PAIR = "pair"  # which of two answers is better
    LABEL = "label"  # good or bad


@dataclass(frozen=True)
class Item:
    """Something to decide.

    `texts` has the two answers of a pair by model, the model whose wins count first. The one text
    of a label has the name `response`, those of a screening pair `better` and `worse`.
    """

    item_id: str
    instruction: str
    texts: dict[str, str]
    dataset: str = ""
    candidate_id: str = ""
    stratum: str = ""  # of the score, of a label
    known: str = ""  # screening: the name of the better text, or `good` or `bad`

    @property
    def is_screening(self) -> bool:
        """The right answer is known."""
        return bool(self.known)


@dataclass(frozen=True)
class Shown:
    """One place in a rater's order. The page knows an item by `shown_id` alone."""

    shown_id: str
    item_id: str
    left: str  # name of the text on the left
    is_repeat: bool = False


@dataclass(frozen=True)
class StudySettings:
    """The choices by which a study draws from its items."""

    kind: Kind
    raters: tuple[str, ...]
    shared: float = 0.2  # share of the items that every rater gets
    repeated: float = 0.05  # share of a rater's items that come again, sides swapped
    random_seed: int = 0


@dataclass(frozen=True)
class Study:
    """Items by id and each rater's order, with the number of texts left out by reason.

    Raises:
        ValueError: an item has too few or too many texts, or a sheet shows one that is not there.
    """

    study_id: str
    settings: StudySettings
    items: Mapping[str, Item]
    sheets: Mapping[str, Sequence[Shown]]  # by rater
    left_out: Mapping[str, int]
    pool: Mapping[str, int]  # labels: scored pairs in each stratum

    def __post_init__(self) -> None:
        num_texts = 2 if self.settings.kind is Kind.PAIR else 1
        for name, item in self.items.items():
            if len(item.texts) != num_texts:
                raise ValueError(f"item {name} has {len(item.texts)} texts in place of {num_texts}")
        for rater, sheet in self.sheets.items():
            for shown in sheet:
                known = self.items.get(shown.item_id)
                if known is None or shown.left not in known.texts:
                    raise ValueError(f"the sheet of {rater} shows a text that is not there")

    def shown(self, rater: str) -> dict[str, Shown]:
        """A rater's places by the id that the page knows."""
        return {shown.shown_id: shown for shown in self.sheets[rater]}

    def payload(self, rater: str) -> dict[str, Any]:
        """Texts and opaque ids for a rater's page; nothing in them names a model or score."""
        return {
            "study": self.study_id,
            "rater": rater,
            "kind": self.settings.kind.value,
            "items": [self._for_page(shown) for shown in self.sheets[rater]],
        }

    def _for_page(self, shown: Shown) -> dict[str, str]:
        item = self.items[shown.item_id]
        texts = {"id": shown.shown_id, "instruction": item.instruction}
        left, right = sides(item, shown)
        texts["left"] = item.texts[left]
        return texts | ({"right": item.texts[right]} if right else {})


def sides(item: Item, shown: Shown) -> tuple[str, str]:
    """The names of the texts on the left and on the right; the right one is empty for a label."""
    (right,) = [name for name in item.texts if name != shown.left] or [""]
    return shown.left, right


def draw(*parts: object) -> str:
    """A number in hexadecimal digits that only the parts decide."""
    return hashlib.sha256(json.dumps(list(map(str, parts))).encode()).hexdigest()


def drawn_first(items: Iterable[Item], *parts: object) -> list[Item]:
    """Items in an order that the parts draw."""
    return sorted(items, key=lambda item: draw(*parts, item.item_id))


# --- drawing --------------------------------------------------------------------------------------


def make_study(
    settings: StudySettings,
    items: Sequence[Item],
    screening: Sequence[Item],
    left_out: Mapping[str, int],
    pool: Mapping[str, int] | None = None,
) -> Study:
    """Draw each rater's order: screening items first, then the rater's share with repeats."""
    contents = [asdict(settings), [asdict(item) for item in (*items, *screening)]]
    study_id = draw(json.dumps(contents, sort_keys=True))[:12]
    shares = _shares(items, settings)
    sheets = {
        rater: _sheet(study_id, rater, shares[rater], screening, settings)
        for rater in settings.raters
    }
    by_id = {item.item_id: item for item in (*screening, *items)}
    return Study(study_id, settings, by_id, sheets, dict(left_out), dict(pool or {}))


def _shares(items: Sequence[Item], settings: StudySettings) -> dict[str, list[Item]]:
    """The items of each rater: the shared ones, and every other item once among all raters."""
    ordered = drawn_first(items, settings.random_seed, "share")
    num_shared = round(settings.shared * len(ordered))
    shares = dict.fromkeys(settings.raters, ordered[:num_shared])
    for number, item in enumerate(ordered[num_shared:]):
        rater = settings.raters[number % len(settings.raters)]
        shares[rater] = [*shares[rater], item]
    return shares


def _sheet(
    study_id: str,
    rater: str,
    items: Sequence[Item],
    screening: Sequence[Item],
    settings: StudySettings,
) -> list[Shown]:
    seed = settings.random_seed
    left = _balanced([*items, *screening], seed, rater)

    def shown(item: Item, *, is_repeat: bool = False) -> Shown:
        side = left[item.item_id]
        if is_repeat:
            (side,) = [name for name in item.texts if name != side] or [side]
        opaque = draw(study_id, rater, item.item_id, is_repeat)[:16]
        return Shown(opaque, item.item_id, side, is_repeat)

    first = [shown(item) for item in drawn_first(screening, seed, "order", rater)]
    ordered = drawn_first(items, seed, "order", rater)
    # Out of the first half and back in the second, so that many others come between.
    half = len(ordered) // 2
    repeats = drawn_first(ordered[:half], seed, "repeat", rater)[: _num_repeats(ordered, settings)]
    rest = [shown(item) for item in ordered[half:]]
    again = [shown(item, is_repeat=True) for item in repeats]
    mixed = sorted([*rest, *again], key=lambda s: draw(seed, "order", rater, s.shown_id))
    return [*first, *(shown(item) for item in ordered[:half]), *mixed]


def _num_repeats(items: Sequence[Item], settings: StudySettings) -> int:
    if len(items) < MIN_REPEATED or not settings.repeated:
        return 0
    return max(round(settings.repeated * len(items)), 1)


def _balanced(items: Sequence[Item], seed: int, rater: str) -> dict[str, str]:
    """The name of the text on the left of each item.

    For a rater and two models each model is on the left in half of the items, give or take one.
    """
    groups = defaultdict(list)
    for item in items:
        groups[tuple(item.texts)].append(item)
    left = {}
    for names, group in groups.items():
        turn = int(draw(seed, "turn", rater, *names), 16)
        for number, item in enumerate(drawn_first(group, seed, "side", rater)):
            left[item.item_id] = names[(number + turn) % len(names)]
    return left


# --- the record of what was drawn -----------------------------------------------------------------


def save(folder: str, study: Study) -> None:
    """Record a study in its folder, unless it stands there already."""
    file = storage.join(folder, study.study_id, PLAN)
    if not storage.exists(file):
        content = json.dumps(asdict(study), indent=1)  # ASCII: texts may hold lone surrogates
        storage.write_text(file, content + "\n")


def load_all(folder: str) -> dict[str, Study]:
    """Every study that a folder records, by id.

    Raises:
        UserError: the record of one is damaged, or of another version of the program.
    """
    files = [storage.join(folder, name, PLAN) for name in sorted(storage.names(folder))]
    studies = [study for file in files if (study := storage.read_as(file, Study))]
    return {study.study_id: study for study in studies}
