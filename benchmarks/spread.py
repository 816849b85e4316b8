"""A figure over repeats: its middle, and how far it went to either side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def shown(self, scale: float, digits: int) -> str:
        """`median [low–high]` in another unit."""
        low, middle, high = (f"{scale * v:.{digits}f}" for v in (self.low, self.median, self.high))
        return f"{middle} [{low}–{high}]"
