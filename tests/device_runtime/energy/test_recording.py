"""Joules between two times: trapezoids, counters, gaps, idle, and what the report says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.energy.meter import MeterError, MeterFacts, WallFit
from device_runtime.energy.recording import Recording, Timeline
from device_runtime.energy.report import make_report


class FakeMeter:
    """Gives what a function of time gives; the time stands still until it is set."""

    def __init__(self, value: Callable[[float], float], facts: MeterFacts) -> None:
        self.now_s = 0.0
        self._value = value
        self._facts = facts
        self.read_by: set[str] = set()
        self.was_read = threading.Event()

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        self.read_by.add(threading.current_thread().name)
        if len(self.read_by) > 1:
            self.was_read.set()
        return self._value(self.now_s)

    def close(self) -> None:
        pass


def facts(**changes: object) -> MeterFacts:
    plain: dict[str, object] = {
        "name": "fake", "kind": "measured", "point": "board_input", "covers": "all", "unit": "w",
        "period_s": 100.0, "wall": None,
    }  # fmt: skip
    return MeterFacts(**{**plain, **changes})  # type: ignore[arg-type]


def filled(unit: str, readings: list[tuple[float, float]], longest_gap_s: float = 10.0) -> Timeline:
    timeline = Timeline(unit, longest_gap_s)  # type: ignore[arg-type]
    for time_s, value in readings:
        timeline.add(time_s, value)
    return timeline


def test_a_sampled_power_is_integrated_by_trapezoids() -> None:
    timeline = filled("w", [(0, 2.0), (1, 4.0), (3, 4.0), (4, 0.0)])
    assert timeline.energy(0, 4).joules == pytest.approx(3 + 8 + 2)
    assert timeline.energy(0.5, 1).joules == pytest.approx(0.5 * 3.5)
    assert timeline.energy(3.5, 4).joules == pytest.approx(0.5)
    assert timeline.energy(1, 3).watts == pytest.approx(4.0)


def test_a_counter_is_subtracted_and_read_between_its_readings() -> None:
    timeline = filled("j", [(0, 1000.0), (2, 1010.0), (4, 1040.0)])
    assert timeline.energy(0, 4).joules == pytest.approx(40)
    assert timeline.energy(1, 3).joules == pytest.approx(5 + 15)


@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 50)), min_size=2, max_size=20),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
)
def test_parts_of_a_window_sum_to_the_whole(
    steps: list[tuple[float, int]], a: float, b: float
) -> None:
    now_s, readings = 0.0, list[tuple[float, float]]()
    for pause_s, watts in steps:
        now_s += pause_s
        readings.append((now_s, watts))
    timeline = filled("w", readings)
    start_s, end_s = readings[0][0], readings[-1][0]
    cuts = sorted([start_s, *(start_s + x * (end_s - start_s) for x in (a, b)), end_s])
    parts = [timeline.energy(x, y).joules for x, y in pairwise(cuts)]
    whole = timeline.energy(start_s, end_s)
    assert sum(parts) == pytest.approx(whole.joules, abs=1e-9)
    assert min(w for _, w in readings) * whole.seconds <= whole.joules + 1e-9
    assert whole.joules <= max(w for _, w in readings) * whole.seconds + 1e-9


def test_time_without_readings_is_a_gap() -> None:
    timeline = filled("w", [(0, 1.0), (1, 1.0), (5, 1.0), (6, 1.0)], longest_gap_s=3.0)
    assert timeline.energy(0, 6).gap_s == pytest.approx(4)
    assert timeline.energy(2, 3).gap_s == pytest.approx(1)
    assert timeline.energy(5, 6).gap_s == 0
    assert timeline.energy(0, 6).num_readings == 4
    assert timeline.energy(-1, 8).gap_s == pytest.approx(1 + 4 + 2)
    assert timeline.energy(7, 9).gap_s == pytest.approx(2)
    assert timeline.energy(7, 9).joules == 0


def test_a_meter_without_any_reading_is_an_error() -> None:
    with pytest.raises(MeterError, match="no reading"):
        filled("w", []).energy(0, 1)


def test_a_recording_reads_in_its_thread_and_at_marks() -> None:
    meter = FakeMeter(lambda _: 5.0, facts(period_s=1e-3))
    with Recording(meter) as recording:
        assert meter.was_read.wait(5.0)
    assert "energy" in meter.read_by
    assert recording.num_failed == 0


def recorded(meter: FakeMeter, times_s: list[float]) -> Recording:
    """A recording of readings at these times only."""
    recording = Recording(meter, clock=lambda: meter.now_s)
    for meter.now_s in times_s:
        assert recording.mark() == meter.now_s
    return recording


def test_failed_readings_are_counted_and_leave_a_gap() -> None:
    def value(now_s: float) -> float:
        if 2 < now_s < 8:
            raise OSError("EAGAIN")
        return 3.0

    recording = recorded(FakeMeter(value, facts(period_s=1.0)), [float(t) for t in range(11)])
    assert recording.num_failed == 5
    energy = recording.energy(0, 10)
    assert energy.gap_s == pytest.approx(6)
    assert energy.joules == pytest.approx(30)  # interpolated, and said so


def test_a_report_has_gross_and_net_of_each_phase_and_says_where() -> None:
    # 2 W at rest until 10 s, prefill at 8 W, decode at 5 W, then 2.5 W at rest
    def value(now_s: float) -> float:
        return 2.0 if now_s < 10 else 8.0 if now_s < 20 else 5.0 if now_s < 40 else 2.5

    times_s = [t / 10 for t in range(501)]
    meter = FakeMeter(value, facts(period_s=0.1, wall=WallFit(1.1, 0.5)))
    report = make_report(
        recorded(meter, times_s),
        {"prefill": (10.0, 19.9), "decode": (20.0, 39.9)},
        idle=[(0.0, 9.9), (40.0, 50.0)],
    )
    prefill, decode = report.phases["prefill"], report.phases["decode"]
    assert report.idle_w == pytest.approx(2.25)
    assert report.idle_drift_w == pytest.approx(0.5)
    assert prefill.gross_j == pytest.approx(8 * 9.9)
    assert prefill.net_j == pytest.approx((8 - 2.25) * 9.9)
    assert decode.gross_j == pytest.approx(5 * 19.9)
    assert decode.wall_j == pytest.approx(1.1 * 5 * 19.9 + 0.5 * 19.9)
    assert (report.kind, report.point, report.meter) == ("measured", "board_input", "fake")
    assert report.warnings == ()


def test_a_report_without_idle_has_no_net() -> None:
    meter = FakeMeter(lambda _: 1.0, facts(period_s=0.1))
    report = make_report(recorded(meter, [t / 10 for t in range(200)]), {"decode": (0.0, 19.0)})
    assert report.idle_w is None
    assert report.phases["decode"].net_j is None
    assert report.phases["decode"].wall_j is None


def test_a_report_warns_of_short_windows_gaps_and_failures() -> None:
    def value(now_s: float) -> float:
        if now_s == 5.0:
            raise OSError
        return 1.0

    meter = FakeMeter(value, facts(period_s=0.1))
    report = make_report(recorded(meter, [0.0, 0.1, 0.2, 5.0, 9.0]), {"decode": (0.0, 9.0)})
    words = " ".join(report.warnings)
    for text in ("1 readings", "too few", "8.8 s without readings"):
        assert text in words
    slow = FakeMeter(lambda now_s: now_s, facts(unit="j", refresh_s=0.1, period_s=0.1))
    times_s = [t / 10 for t in range(11)]
    (warning,) = make_report(recorded(slow, times_s), {"decode": (0.0, 1.0)}).warnings
    assert "news every 0.1 s" in warning
