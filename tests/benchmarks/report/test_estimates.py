"""Intervals of medians, against the binomial's tables."""

from __future__ import annotations

import random

import pytest

from benchmarks.report.estimates import Estimate, coverage_note, interval_of_median


@pytest.mark.parametrize(
    ("num_values", "rank", "coverage"),
    [
        (1, 1, 0.0),
        (2, 1, 0.5),
        (3, 1, 0.75),
        (5, 1, 0.9375),
        (6, 1, 0.96875),
        (8, 1, 1 - 2 / 256),
        (9, 2, 1 - 20 / 512),
        (20, 6, 1 - 2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20),
    ],
)
def test_ranks_and_coverage(num_values: int, rank: int, coverage: float) -> None:
    found = interval_of_median(num_values)
    assert found[0] == rank and found[1] == pytest.approx(coverage, abs=1e-12)


def test_of_five_the_interval_goes_from_the_smallest_to_the_largest() -> None:
    estimate = Estimate.of([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (estimate.median, estimate.low, estimate.high) == (3.0, 1.0, 5.0)
    assert estimate.coverage == 0.9375 and estimate.is_sound
    assert estimate.values == (3.0, 1.0, 2.0, 5.0, 4.0)


def test_of_nine_the_outermost_two_are_left_out() -> None:
    estimate = Estimate.of([float(i) for i in range(9)])
    assert (estimate.median, estimate.low, estimate.high) == (4.0, 1.0, 7.0)


def test_a_single_value_is_its_own_interval_and_not_sound() -> None:
    estimate = Estimate.of([2.0])
    assert (estimate.low, estimate.high, estimate.coverage) == (2.0, 2.0, 0.0)
    assert not estimate.is_sound


def test_intervals_that_touch_are_not_apart() -> None:
    low, touching, high = (Estimate.of([first, *[first + 1.0] * 4]) for first in (1.0, 2.0, 2.5))
    assert not low.is_apart_from(touching) and not low.is_clearly_below(touching)
    assert low.is_apart_from(high) and high.is_apart_from(low)
    assert low.is_clearly_below(high) and not high.is_clearly_below(low)


@pytest.mark.parametrize("num_values", [1, 2, 4])
def test_few_values_are_apart_from_nothing(num_values: int) -> None:
    few, many = Estimate.of([10.0] * num_values), Estimate.of([99.0] * 5)
    assert not few.is_apart_from(many) and not many.is_apart_from(few)


def test_the_note_says_how_often_brackets_hold_the_median() -> None:
    assert coverage_note() == (
        "Brackets go from one repeat to another; they hold the true median with a chance of 50% with 2 "
        "repeats, 75% with 3, 94% with 5, and of at least 95% with more."
    )


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    chance = random.Random(7)
    for num_values in (5, 9):
        estimates = [Estimate.of([chance.random() for _ in range(num_values)]) for _ in range(4000)]
        share = sum(e.low < 0.5 < e.high for e in estimates) / len(estimates)
        assert share == pytest.approx(estimates[0].coverage, abs=0.012)
