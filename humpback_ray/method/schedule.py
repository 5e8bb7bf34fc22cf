"""The length of a finetuning, the examples of each step and its learning rate: pure arithmetic.

Nothing here knows of workers, micro-batches or ZeRO stages, so no placement can change the answer.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from functools import lru_cache

from humpback_ray.config.settings import TrainingSettings

# Number of examples -> optimizer steps (paper, Table 18).
STEPS_BY_NUM_EXAMPLES = (
    (100, 30),
    (800, 300),
    (1_600, 600),
    (3_200, 500),
    (6_400, 600),
    (12_800, 600),
    (25_600, 1_200),
    (51_200, 1_600),
)
LARGEST_LISTED = STEPS_BY_NUM_EXAMPLES[-1][0]
DIVERGENCE_STEPS, DIVERGENCE_FACTOR, FACTOR_OF_FIRST_STEP = 20, 1.5, 3.0
SMALL_SET = 3_000  # examples; below it the paper's batch is 8 and not 32


def schedule(num_examples: int, settings: TrainingSettings) -> tuple[int, int]:
    """Batch size in examples and number of optimizer steps for a set of `num_examples`.

    What the settings leave open follows the paper: batch 32, or 8 below 3,000 examples; the steps
    of its Table 18. Between the sizes that it lists the passes over the data are linear, and beyond
    them the steps are constant.
    """
    batch_size = settings.batch_size or paper_batch_size(num_examples)
    return batch_size, settings.num_steps or _table_steps(num_examples)


def paper_batch_size(num_examples: int) -> int:
    """The paper's batch size for a set of `num_examples`."""
    return 8 if num_examples < SMALL_SET else 32


def num_passes(num_examples: int, batch_size: int, num_steps: int) -> float:
    """Passes over the data that a training makes; below 1 it sees that share of the examples."""
    return batch_size * num_steps / num_examples


def passes_line(num_examples: int, batch_size: int, num_steps: int) -> str:
    """One line for a person: passes over the data, and the share that a training sees."""
    passes = num_passes(num_examples, batch_size, num_steps)
    line = f"{num_steps:,} steps of {batch_size} examples are {passes:.2f} passes over the data"
    if passes >= 1:
        return line
    num_seen = batch_size * num_steps
    line += f": {num_seen:,} of {num_examples:,} examples are seen ({passes:.1%})"
    if num_examples > LARGEST_LISTED:
        line += f"; the paper's Table 18 ends at {LARGEST_LISTED:,}, num_steps sets more"
    return line


def _table_steps(num_examples: int) -> int:
    sizes = [size for size, _ in STEPS_BY_NUM_EXAMPLES]
    above = bisect_left(sizes, num_examples)
    if above == 0:
        return STEPS_BY_NUM_EXAMPLES[0][1]
    if above == len(sizes):
        return STEPS_BY_NUM_EXAMPLES[-1][1]
    # Passes and not steps, because the batch changes between two of the sizes: 2,999 examples would
    # get 1.4 passes and 3,000 would get 5.5.
    (low, low_passes), (high, high_passes) = (
        (size, num_passes(size, paper_batch_size(size), steps))
        for size, steps in STEPS_BY_NUM_EXAMPLES[above - 1 : above + 1]
    )
    passes = low_passes + (high_passes - low_passes) * (num_examples - low) / (high - low)
    return round(passes * num_examples / paper_batch_size(num_examples))


def batch_indices(step: int, batch_size: int, num_examples: int, random_seed: int) -> list[int]:
    """Positions of the examples that step `step` (from 1) sees, in order.

    Every epoch is a seeded permutation of all examples; a batch that reaches the end of one epoch
    continues in the next.
    """
    first = (step - 1) * batch_size
    return [
        epoch_order(place // num_examples, num_examples, random_seed)[place % num_examples]
        for place in range(first, first + batch_size)
    ]


@lru_cache(maxsize=4)
def epoch_order(epoch: int, num_examples: int, random_seed: int) -> tuple[int, ...]:
    """The permutation of epoch `epoch` (from 0); a function of its arguments alone."""
    order = list(range(num_examples))
    random.Random(f"{random_seed}/{epoch}").shuffle(order)
    return tuple(order)


def learning_rate(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of step `step` (from 1): linear warm-up, then linear to the final one.

    The peak is at the last warm-up step (or at step 1 without warm-up), the final learning rate at
    step `num_steps`.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    peak_step = max(settings.warmup_steps, 1)
    progress = (step - peak_step) / max(num_steps - peak_step, 1)
    return settings.learning_rate + progress * (
        settings.final_learning_rate - settings.learning_rate
    )


def has_diverged(losses: list[float]) -> bool:
    """True if the loss rises instead of falling.

    The mean of the last 20 steps is held against that of the first 20: a window evens out what
    single batches do; 1.5 times is more than any batch order does to a mean of so many, and less
    than the loss of a model that has forgotten its language. A training that breaks within its
    first steps has no good first window: it is held against the first step, where 3 times is more
    than one batch of examples makes. All three are ours.
    """
    first, last = losses[:DIVERGENCE_STEPS], losses[-DIVERGENCE_STEPS:]
    if len(losses) > DIVERGENCE_STEPS and sum(last) > FACTOR_OF_FIRST_STEP * len(last) * losses[0]:
        return True
    return len(losses) >= 2 * DIVERGENCE_STEPS and sum(last) > DIVERGENCE_FACTOR * sum(first)
