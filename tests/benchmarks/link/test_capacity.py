"""What a link can carry by when: constant rates, steps, outages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.link.capacity import Capacity, Outage, Rates
from hw_profiles import ProfileError

RATES = st.lists(
    st.tuples(st.floats(0.01, 5), st.sampled_from([0.0, 1e3, 1e6, 3.7e8])), min_size=1, max_size=6
).filter(lambda spans: any(rate for _, rate in spans))


def rates(spans: list[tuple[float, float]]) -> Rates:
    """From spans of (seconds, rate_bps)."""
    starts = [sum(length for length, _ in spans[:i]) for i in range(len(spans) + 1)]
    return Rates([(s, r) for s, (_, r) in zip(starts[:-1], spans, strict=True)], starts[-1])


def test_a_constant_rate_takes_its_time() -> None:
    capacity = Capacity(Rates.constant(8e6))
    assert capacity.finish_s(0.0, 1_000_000) == pytest.approx(1.0)
    assert capacity.finish_s(12.25, 500_000) == pytest.approx(12.75)
    assert Rates.constant(8e6).mean_bps == 8e6


def test_steps_are_followed_and_begin_again() -> None:
    capacity = Capacity(rates([(1.0, 8e3), (1.0, 0.0), (2.0, 16e3)]))
    assert capacity.finish_s(0.0, 500) == pytest.approx(0.5)
    assert capacity.finish_s(0.5, 1_000) == pytest.approx(2.25)  # 500 B, a pause, 500 B
    assert capacity.finish_s(0.0, 1_000) == pytest.approx(1.0)  # not at the pause's end
    assert capacity.finish_s(0.0, 5_000) == pytest.approx(4.0)  # in this pass, not in the next
    assert capacity.finish_s(3.5, 1_500) == pytest.approx(4.5)
    assert capacity.finish_s(41.5, 1) == pytest.approx(42 + 1 / 2000)


@given(RATES, st.floats(0.001, 100), st.integers(1, 10**6))
def test_what_has_left_is_what_could_be_carried(
    spans: list[tuple[float, float]], start_s: float, num_bytes: int
) -> None:
    line = rates(spans)
    end_s = Capacity(line).finish_s(start_s, num_bytes)
    carried = line.bits_by(end_s) - line.bits_by(start_s)
    assert end_s >= start_s
    assert carried == pytest.approx(8 * num_bytes, rel=1e-6, abs=1.0)


def test_an_outage_delays_what_is_being_sent_and_what_comes() -> None:
    capacity = Capacity(Rates.constant(8e3), (Outage(1.0, 2.0),))
    assert capacity.finish_s(0.5, 500) == pytest.approx(1.0)
    assert capacity.finish_s(0.5, 1_000) == pytest.approx(3.5)
    assert capacity.finish_s(2.0, 1_000) == pytest.approx(4.0)
    assert capacity.finish_s(3.0, 1_000) == pytest.approx(4.0)


def test_outages_come_back_and_may_overlap() -> None:
    again = Capacity(Rates.constant(8e3), (Outage(1.0, 0.5, 2.0),))
    assert again.finish_s(0.0, 3_000) == pytest.approx(4.0)  # 1 + [.5] + 1.5 + [.5] + .5
    both = Capacity(Rates.constant(8e3), (Outage(1.0, 1.0), Outage(1.5, 2.0)))
    assert both.finish_s(0.5, 1_000) == pytest.approx(4.0)


def test_the_rates_run_on_during_an_outage() -> None:
    capacity = Capacity(rates([(1.0, 8e3), (1.0, 16e3)]), (Outage(0.5, 1.0),))
    assert capacity.finish_s(0.0, 1_500) == pytest.approx(2.0)  # 500 B before, 1,000 after


@pytest.mark.parametrize(
    ("steps", "period_s"),
    [
        ([], 1.0),
        ([(1.0, 1e6)], 2.0),
        ([(0.0, 1e6), (0.0, 1e6)], 1.0),
        ([(0.0, 1e6), (1.0, 1e6)], 1.0),
        ([(0.0, -1.0)], 1.0),
        ([(0.0, math.inf)], 1.0),
        ([(0.0, 0.0)], 1.0),
        ([(0.0, 1.0)], math.inf),
    ],
)
def test_steps_that_cannot_be_are_refused(
    steps: list[tuple[float, float]], period_s: float
) -> None:
    with pytest.raises(ProfileError):
        Rates(steps, period_s)


@pytest.mark.parametrize("numbers", [(-1, 1), (0, 0), (0, math.inf), (0, 2, 2), (0, 1, math.inf)])
def test_outages_that_cannot_be_are_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ProfileError):
        Outage(*numbers)


def test_a_link_that_is_never_up_is_refused() -> None:
    with pytest.raises(ProfileError, match="cover all"):
        Capacity(Rates.constant(1e6), (Outage(0, 1, 2), Outage(1, 1, 2)))
    rarely = Capacity(rates([(1.0, 0.0), (1.0, 1e6)]), (Outage(0.0, 1.9, 2.0),))
    assert rarely.finish_s(0.0, 100) == pytest.approx(1.9008)
    never = Capacity(rates([(1.0, 0.0), (1.0, 1e6)]), (Outage(1.0, 1.0, 2.0),))
    with pytest.raises(ProfileError, match="no time"):
        never.finish_s(0.0, 100)
