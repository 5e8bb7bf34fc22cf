"""The arms of ablations: each is the run's recipe with a few settings changed.

Arms that compare data or tags change the last iteration alone, so the same model rates the same
candidates for all of them, and only one training and one evaluation is each arm's own. The arms of
`seed` change the whole method, because the seed makes M_yx and the raters too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml

from humpback_ray.config.settings import SelectionSettings, Settings
from humpback_ray.method import selection

FIRST_MODEL = "M_0"  # of the seed alone
PAPER_THRESHOLDS = {"A_4": 4.0, "A_5": 4.5}


class Group(StrEnum):
    """A question that a group of arms answers."""

    CURATION = "curation"  # uncurated, A_4 and A_5, equally many pairs of each
    DATA = "data"  # seed only, web only, both
    TAGS = "tags"  # the paper's four conditions
    SIZE = "size"  # numbers of selected pairs
    SEED = "seed"  # numbers of seed pairs
    K = "k"  # thresholds


@dataclass(frozen=True)
class Arm:
    """A recipe to compare with the run's."""

    name: str  # of its folder and its row
    overrides: tuple[str, ...] = ()  # of the run's recipe, as `--set` takes them
    model: str | None = None  # that is compared, by its evaluation's name; None: the last one
    size: bool = False  # True: a point of the fit of win rate and size


@dataclass(frozen=True)
class Values:
    """The values of the groups that have numbers. The sizes are the paper's (Table 18)."""

    sizes: tuple[int, ...] = (3_200, 6_400, 12_800, 25_600)
    seed_sizes: tuple[int, ...] = (100, 800, 1_600, 3_200)
    thresholds: tuple[float, ...] = (3.0, 3.5, 4.0, 4.5)


@dataclass(frozen=True)
class Supply:
    """The pairs that a finished run has for its arms."""

    num_segments: int  # with a score of the last rating
    num_at_least: Mapping[float, int]  # of them, by each k of `thresholds_of`
    num_seed_pairs: int  # apart from the held-out ones

    def num_chosen(self, settings: SelectionSettings) -> int:
        """Number of pairs that a selection's method chooses."""
        num_at_least_k = self.num_at_least[settings.k]
        return selection.num_chosen(self.num_segments, num_at_least_k, settings)


@dataclass(frozen=True)
class Chosen:
    """The arms of some groups, and a line for each one that the run cannot have."""

    arms: list[Arm]
    left_out: list[str]


RUN = Arm("run")  # the run's own last model, with which every arm is compared

TAG_CONDITIONS = {
    "both": ("settings.last_iteration.tags=true", "settings.prompts.inference=both"),
    "seed": ("settings.last_iteration.tags=true", "settings.prompts.inference=seed"),
    "unasked": ("settings.last_iteration.tags=true", "settings.prompts.inference=none"),
    "none": ("settings.last_iteration.tags=false", "settings.prompts.inference=none"),
}


def arms_of(groups: Iterable[Group], settings: Settings, supply: Supply, values: Values) -> Chosen:
    """The run itself and the arms of some groups.

    Args:
        settings: of the run's recipe.
        supply: what the run has.
        values: of the groups with numbers.
    """
    make: Mapping[Group, Callable[[], Iterator[Arm | str]]] = {
        Group.CURATION: lambda: _curation(settings, supply),
        Group.DATA: lambda: _data(settings),
        Group.TAGS: lambda: _tags(settings),
        Group.SIZE: lambda: _sizes(settings, supply, values.sizes),
        Group.SEED: lambda: _seed_sizes(supply, values.seed_sizes),
        Group.K: lambda: _thresholds(settings, supply, values.thresholds),
    }
    made = [each for group in dict.fromkeys(groups) for each in make[group]()]
    arms = [each for each in made if isinstance(each, Arm)]
    return Chosen([RUN, *arms], [each for each in made if isinstance(each, str)])


def thresholds_of(settings: Settings, values: Values) -> set[float]:
    """Each k of which an arm may ask how many segments have a score of at least it."""
    return {*PAPER_THRESHOLDS.values(), own_selection(settings).k, *values.thresholds}


def own_selection(settings: Settings) -> SelectionSettings:
    """The selection of the run's last iteration, without a limit to the number of pairs."""
    own = settings.last_iteration.selection or settings.selection
    return own.model_copy(update={"max_pairs": None})


def _curation(settings: Settings, supply: Supply) -> Iterator[Arm | str]:
    own = own_selection(settings)
    choices = {
        "uncurated": own.model_copy(update={"method": "all"}),
        **{
            name: own.model_copy(update={"method": "threshold", "k": k})
            for name, k in PAPER_THRESHOLDS.items()
        },
    }
    if own.identity() not in [choice.identity() for choice in choices.values()]:
        choices["selected"] = own
    counts = {name: supply.num_chosen(choice) for name, choice in choices.items()}
    equal = min(count for count in counts.values() if count)
    for name, choice in choices.items():
        if counts[name]:
            yield Arm(f"{Group.CURATION}-{name}", (_limited(choice, equal, counts[name]),))
        else:
            yield f"{Group.CURATION}-{name}: no pair has a score of {choice.k:g} or more"


def _data(settings: Settings) -> Iterator[Arm | str]:
    own = settings.last_iteration.selection or settings.selection
    yield Arm(f"{Group.DATA}-seed", model=FIRST_MODEL)
    yield Arm(f"{Group.DATA}-web", (_selecting(own.model_copy(update={"with_seed": False})),))
    yield Arm(f"{Group.DATA}-both", (_selecting(own.model_copy(update={"with_seed": True})),))


def _tags(settings: Settings) -> Iterator[Arm | str]:
    if not (settings.prompts.seed_tag and settings.prompts.web_tag):
        yield f"{Group.TAGS}: the recipe leaves seed_tag or web_tag empty (settings.prompts)"
        return
    for name, overrides in TAG_CONDITIONS.items():
        yield Arm(f"{Group.TAGS}-{name}", overrides)


def _sizes(settings: Settings, supply: Supply, sizes: Sequence[int]) -> Iterator[Arm | str]:
    own = own_selection(settings)
    available = supply.num_chosen(own)
    for size in sizes:
        name = f"{Group.SIZE}-{size}"
        if size <= available:
            yield Arm(name, (_limited(own, size, available),), size=True)
        else:
            yield f"{name}: the run's selection has {available:,} pairs"


def _seed_sizes(supply: Supply, sizes: Sequence[int]) -> Iterator[Arm | str]:
    for size in sizes:
        name = f"{Group.SEED}-{size}"
        if size <= supply.num_seed_pairs:
            yield Arm(name, (f"settings.seed.max_pairs={size}",))
        else:
            yield f"{name}: the seed has {supply.num_seed_pairs:,} pairs to train on"


def _thresholds(
    settings: Settings, supply: Supply, thresholds: Sequence[float]
) -> Iterator[Arm | str]:
    for k in thresholds:
        choice = own_selection(settings).model_copy(update={"method": "threshold", "k": k})
        name = f"{Group.K}-{k:g}"
        if supply.num_chosen(choice):
            yield Arm(name, (_selecting(choice),))
        else:
            yield f"{name}: no pair has a score of {k:g} or more"


def _limited(settings: SelectionSettings, number: int, available: int) -> str:
    """So many of the pairs that a selection has; without a limit where that is all of them."""
    limit = number if number < available else None
    return _selecting(settings.model_copy(update={"max_pairs": limit}))


def _selecting(settings: SelectionSettings) -> str:
    """The override that makes this the selection of the last iteration."""
    values = yaml.safe_dump(
        settings.identity(), default_flow_style=True, sort_keys=False, width=1000
    )
    return f"settings.last_iteration.selection={values.strip()}"
