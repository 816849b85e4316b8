"""Rates per bearer token, on a clock that the tests move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_server.admission import Admission, Bucket, RateError, Rates

ALICE, BOB = b"alice", b"bob"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_rates_everything_goes(clock: Clock) -> None:
    admission = Admission(Rates(), clock)
    for _ in range(10_000):
        admission.begin(ALICE)
        admission.charge(ALICE, 1 << 20)


def test_a_minute_s_requests_may_come_at_once_and_then_at_the_rate(clock: Clock) -> None:
    admission = Admission(Rates(requests_per_minute=3), clock)
    for _ in range(3):
        admission.begin(ALICE)
    with pytest.raises(RateError, match="requests_per_minute") as refused:
        admission.begin(ALICE)
    assert refused.value.retry_after_s == pytest.approx(20)
    clock.now_s += 19.9
    with pytest.raises(RateError):
        admission.begin(ALICE)
    clock.now_s += 0.2
    admission.begin(ALICE)
    with pytest.raises(RateError):
        admission.begin(ALICE)


def test_clients_do_not_share_their_rates(clock: Clock) -> None:
    admission = Admission(Rates(requests_per_minute=1, tokens_per_minute=1), clock)
    admission.begin(ALICE)
    admission.charge(ALICE, 50)
    with pytest.raises(RateError):
        admission.go_on(ALICE)
    admission.begin(BOB)


def test_tokens_go_into_debt_and_the_wait_pays_it_back(clock: Clock) -> None:
    admission = Admission(Rates(tokens_per_minute=60), clock)
    admission.go_on(ALICE)
    admission.charge(ALICE, 180)  # one long prompt passes
    with pytest.raises(RateError, match="tokens_per_minute") as refused:
        admission.go_on(ALICE)
    assert refused.value.retry_after_s == pytest.approx(121)  # 120 in debt, and 1 to go on with
    clock.now_s += refused.value.retry_after_s + 0.001
    admission.go_on(ALICE)


def test_a_debt_is_told_for_streams_to_rest(clock: Clock) -> None:
    admission = Admission(Rates(tokens_per_minute=60), clock)
    assert admission.debt_s(ALICE) == 0.0
    admission.charge(ALICE, 62)
    assert admission.debt_s(ALICE) == pytest.approx(3)
    assert admission.debt_s(BOB) == 0.0
    clock.now_s += 3.001
    assert admission.debt_s(ALICE) == 0.0
    assert Admission(Rates(), clock).debt_s(ALICE) == 0.0


def test_rates_below_one_a_minute_admit_at_last(clock: Clock) -> None:
    admission = Admission(Rates(requests_per_minute=0.5), clock)
    admission.begin(ALICE)
    with pytest.raises(RateError) as refused:
        admission.begin(ALICE)
    clock.now_s += refused.value.retry_after_s + 0.001
    admission.begin(ALICE)


def test_new_rates_count_at_once(clock: Clock) -> None:
    admission = Admission(Rates(requests_per_minute=1), clock)
    admission.begin(ALICE)
    admission.set_rates(Rates(requests_per_minute=2))
    admission.begin(ALICE)
    admission.begin(ALICE)
    with pytest.raises(RateError):
        admission.begin(ALICE)


@given(
    rate=st.floats(0.5, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e5)), max_size=30),
)
def test_no_more_is_taken_than_the_rate_and_one_burst(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    """Whoever waits as long as told never has more than time × rate + one minute's worth."""
    bucket, now_s, taken, largest = Bucket(rate, 0.0), 0.0, 0.0, 0.0
    for pause_s, amount in steps:
        now_s += pause_s
        now_s += bucket.wait_s(1.0, now_s)
        bucket.take(amount, now_s)
        taken, largest = taken + amount, max(largest, amount)
        assert taken <= rate * (1 + now_s / 60) + largest + 1e-6 * (1 + taken)
