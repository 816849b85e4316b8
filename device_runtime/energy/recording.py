"""A meter read in a thread, and the energy between any two times."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from device_runtime.energy.meter import EnergyMeter, MeterError

GAP_PERIODS = 3.0
"""Readings further apart than so many periods leave a gap."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Of a window of time."""

    joules: float
    seconds: float
    num_readings: int
    """Within the window."""
    gap_s: float
    """Part of the window without readings nearby: its energy is interpolated, or missing."""

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds if self.seconds else 0.0


class Timeline:
    """Readings in the order of time, and energy between them: trapezoids, or a counter's steps."""

    def __init__(self, unit: Literal["w", "j"], longest_gap_s: float) -> None:
        self._unit = unit
        self._longest_gap_s = longest_gap_s
        self._times_s: list[float] = []
        self._watts: list[float] = []
        """Of a sampled power; empty for a counter."""
        self._joules: list[float] = []
        """Since the first reading, at each reading."""
        self._first_j = 0.0

    def add(self, time_s: float, value: float) -> None:
        """A reading; one that is not later than the last is dropped."""
        if self._times_s and time_s <= self._times_s[-1]:
            return
        if self._unit == "j":
            self._first_j = self._first_j if self._times_s else value
            self._joules.append(value - self._first_j)
        elif self._times_s:
            area_j = (time_s - self._times_s[-1]) * (value + self._watts[-1]) / 2
            self._joules.append(self._joules[-1] + area_j)
        else:
            self._joules.append(0.0)
        if self._unit == "w":
            self._watts.append(value)
        self._times_s.append(time_s)

    def energy(self, start_s: float, end_s: float) -> Energy:
        """Between two times; MeterError where no reading was taken at all."""
        times_s = self._times_s
        if not times_s:
            raise MeterError("the meter gave no reading")
        joules = self._joules_at(end_s) - self._joules_at(start_s)
        inside = bisect_right(times_s, end_s) - bisect_left(times_s, start_s)
        return Energy(joules, end_s - start_s, inside, self._gap_s(start_s, end_s))

    def _joules_at(self, time_s: float) -> float:
        times_s, joules = self._times_s, self._joules
        time_s = min(max(time_s, times_s[0]), times_s[-1])
        i = bisect_right(times_s, time_s) - 1
        if i == len(times_s) - 1:
            return joules[i]
        span_s, into_s = times_s[i + 1] - times_s[i], time_s - times_s[i]
        if self._unit == "j":
            return joules[i] + (joules[i + 1] - joules[i]) * into_s / span_s
        slope = (self._watts[i + 1] - self._watts[i]) / span_s
        return joules[i] + into_s * (self._watts[i] + slope * into_s / 2)

    def _gap_s(self, start_s: float, end_s: float) -> float:
        """Time in the window that lies between readings too far apart, or beyond the last."""
        times_s = self._times_s
        gap_s = max(0.0, min(times_s[0], end_s) - start_s)
        gap_s += max(0.0, end_s - max(times_s[-1], start_s))
        first = max(bisect_right(times_s, start_s) - 1, 0)
        for i in range(first, min(bisect_left(times_s, end_s), len(times_s) - 1)):
            if times_s[i + 1] - times_s[i] > self._longest_gap_s:
                gap_s += max(0.0, min(times_s[i + 1], end_s) - max(times_s[i], start_s))
        return gap_s


class Recording:
    """Reads a meter while a `with` block lasts.

    Afterwards and meanwhile, `energy(start_s, end_s)` tells the joules between two times of
    `time.monotonic`.
    """

    def __init__(self, meter: EnergyMeter, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = meter
        self.num_failed = 0
        """Readings that failed; they leave gaps."""
        facts = meter.facts
        self._clock = clock
        self._timeline = Timeline(facts.unit, GAP_PERIODS * max(facts.period_s, facts.refresh_s))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="energy", daemon=True)

    def __enter__(self) -> Recording:
        self.read()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.read()

    def read(self) -> None:
        """One reading now, beside those of the thread."""
        with self._lock:
            before_s = self._clock()
            try:
                value = self.meter.read()
            except OSError:
                self.num_failed += 1
                return
            # A reading takes time itself; it stands for the middle of that.
            self._timeline.add((before_s + self._clock()) / 2, value)

    def mark(self) -> float:
        """Read now; the time, to be the start or the end of a window."""
        self.read()
        return self._clock()

    def energy(self, start_s: float, end_s: float) -> Energy:
        """Between two times; what is not read yet is read now."""
        if self._thread.is_alive():
            self.read()
        with self._lock:
            return self._timeline.energy(start_s, end_s)

    def _sample(self) -> None:
        while not self._ended.wait(self.meter.facts.period_s):
            self.read()
