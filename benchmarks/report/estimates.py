"""A median of few repeats, with an interval that assumes nothing of how they are distributed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WANTED_COVERAGE = 0.95
ENOUGH_REPEATS = 5
"""From here on the interval from the smallest to the largest covers the true median in 15 of 16."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the repeats tell of a figure."""

    values: tuple[float, ...]
    """One a repeat, in the order they were measured."""
    median: float
    low: float
    high: float
    coverage: float
    """Chance that the true median lies between low and high."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Between two order statistics, as many from below as from above; of one value or more."""
        ordered = sorted(values)
        place, coverage = interval_of_median(len(ordered))
        low, high = ordered[place - 1], ordered[-place]
        return cls(tuple(values), statistics.median(ordered), low, high, coverage)

    def is_apart_from(self, other: Estimate) -> bool:
        """Whether the intervals do not meet, and both are of repeats enough to say so.

        A single repeat has no interval: any two of them would be apart.
        """
        meet = self.low <= other.high and other.low <= self.high
        return self.is_sound and other.is_sound and not meet

    def is_clearly_below(self, other: Estimate) -> bool:
        """Apart, and the smaller one."""
        return self.is_apart_from(other) and self.median < other.median

    @property
    def num_repeats(self) -> int:
        """Repeats that have the figure."""
        return len(self.values)

    @property
    def is_sound(self) -> bool:
        """Whether there are repeats enough to call it different from another one."""
        return self.num_repeats >= ENOUGH_REPEATS


def interval_of_median(num_values: int) -> tuple[int, float]:
    """Rank k from below and from above (1 is the outermost), and the coverage of that interval.

    The true median lies between the k-th smallest and the k-th largest unless fewer than k of the
    values fall on one of its sides: a binomial with chance 1/2. The narrowest interval that covers
    95 % is taken; below six values none does, and the widest one is.
    """
    rank = 1
    while rank < num_values / 2 and _coverage(num_values, rank + 1) >= WANTED_COVERAGE:
        rank += 1
    return rank, _coverage(num_values, rank)


def coverage_note() -> str:
    """What the brackets of a table or a picture hold, in one sentence."""
    shares = (f"{interval_of_median(n)[1]:.0%} with {n}" for n in (3, ENOUGH_REPEATS))
    return (
        "Brackets go from one repeat to another; they hold the true median with a chance of "
        f"{interval_of_median(2)[1]:.0%} with 2 repeats, {', '.join(shares)}, and of at least "
        f"{WANTED_COVERAGE:.0%} with more."
    )


def _coverage(num_values: int, rank: int) -> float:
    outside = 2 * sum(math.comb(num_values, i) for i in range(rank))
    return max(0.0, 1 - float(outside / 2**num_values))
