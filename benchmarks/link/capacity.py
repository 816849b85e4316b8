"""How much a link can carry, and when: rates that change over time, and outages."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from hw_profiles import ProfileError

MAX_OUTAGES_A_PACKET = 10_000


class Rates:
    """Rates that change at given times and begin again after the last; a single one is constant.

    What the link could carry and nobody sends is lost.
    """

    def __init__(self, steps: Sequence[tuple[float, float]], period_s: float) -> None:
        """steps: (start_s, rate_bps), rising from 0; period_s: length of one pass. ProfileError."""
        starts = [start for start, _ in steps]
        ends = [*starts[1:], period_s]
        if (
            not starts
            or starts[0] != 0
            or any(not a < b for a, b in zip(starts, ends, strict=True))
        ):
            raise ProfileError("the steps of a link's rate must rise from 0 s to its period")
        if not math.isfinite(period_s) or any(not 0 <= rate < math.inf for _, rate in steps):
            raise ProfileError("the rates of a link must be 0 or more, and its period finite")
        spans = zip(steps, ends, strict=True)
        self._starts_s = starts
        self._rates_bps = [rate for _, rate in steps]
        self._carried = [0.0, *accumulate(rate * (end - start) for (start, rate), end in spans)]
        """Bits carried at the start of each step, and in the whole period."""
        self._period_s = period_s
        if self._carried[-1] <= 0:
            raise ProfileError("the link never carries anything: every rate is 0")

    @classmethod
    def constant(cls, rate_bps: float) -> Rates:
        """The same rate at all times."""
        return cls([(0.0, rate_bps)], 1.0)

    @property
    def mean_bps(self) -> float:
        """Over one pass."""
        return self._carried[-1] / self._period_s

    def bits_by(self, time_s: float) -> float:
        """Bits that can have been carried from 0 s to `time_s`."""
        passes, within_s = divmod(time_s, self._period_s)
        step = bisect_right(self._starts_s, within_s) - 1
        in_step = (within_s - self._starts_s[step]) * self._rates_bps[step]
        return passes * self._carried[-1] + self._carried[step] + in_step

    def time_s(self, bits: float) -> float:
        """The earliest time by which so many bits, more than 0, can have been carried."""
        passes, within = divmod(bits, self._carried[-1])
        if within == 0:  # the last bit of a pass leaves in that pass, not in the next
            passes, within = passes - 1, self._carried[-1]
        step = bisect_left(self._carried, within) - 1
        in_step_s = (within - self._carried[step]) / self._rates_bps[step]
        return passes * self._period_s + self._starts_s[step] + in_step_s


@dataclass(frozen=True, slots=True)
class Outage:
    """Nothing is carried from `start_s` for `duration_s`, and again every `every_s` if given."""

    start_s: float
    duration_s: float
    every_s: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.start_s < math.inf and 0 < self.duration_s < math.inf):
            raise ProfileError("an outage needs a start of 0 s or more and a positive duration")
        if self.every_s is not None and not self.duration_s < self.every_s < math.inf:
            raise ProfileError("an outage that returns must be shorter than its period")

    def latest_s(self, time_s: float) -> float:
        """When the last outage that began at or before this time began; -infinity if none."""
        if time_s < self.start_s:
            return -math.inf
        if self.every_s is None:
            return self.start_s
        return self.start_s + (time_s - self.start_s) // self.every_s * self.every_s

    def next_s(self, time_s: float) -> float:
        """When the first outage after this time begins; infinity if none is left."""
        if time_s < self.start_s:
            return self.start_s
        return math.inf if self.every_s is None else self.latest_s(time_s) + self.every_s


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rates with outages. The rates run on during an outage, as the world does."""

    rates: Rates
    outages: tuple[Outage, ...] = ()

    def __post_init__(self) -> None:
        """ProfileError where outages could leave nothing."""
        shares = (o.duration_s / o.every_s for o in self.outages if o.every_s is not None)
        if sum(shares) >= 1:
            raise ProfileError("the outages cover all of the time; make them shorter or rarer")

    def finish_s(self, start_s: float, num_bytes: int) -> float:
        """When the last of these bytes has left, if the first may leave at `start_s`."""
        bits = 8.0 * num_bytes
        for _ in range(MAX_OUTAGES_A_PACKET):
            start_s = self._up_s(start_s)
            cut_s = min((outage.next_s(start_s) for outage in self.outages), default=math.inf)
            begun = self.rates.bits_by(start_s)
            end_s = max(start_s, self.rates.time_s(begun + bits))
            if end_s <= cut_s:
                return end_s
            bits -= self.rates.bits_by(cut_s) - begun
            start_s = cut_s
        raise ProfileError("the outages leave no time at which the trace carries anything")

    def _up_s(self, time_s: float) -> float:
        """The first time from this one on at which no outage holds."""
        while True:
            ends = (outage.latest_s(time_s) + outage.duration_s for outage in self.outages)
            end_s = max(ends, default=time_s)
            if end_s <= time_s:
                return time_s
            time_s = end_s
