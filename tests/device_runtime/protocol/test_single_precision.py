"""Laws in a room of single precision, as a drafter makes them: q is what float32 holds, in double."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.protocol.law import ArrayLaw, Floats, prob_of
from device_runtime.protocol.sampling import Logits, Sampling, to_law
from device_runtime.protocol.truncation import nucleus
from tests.law_fixture import INF, PLAIN, Case, Reference, every_sampling, rows_to_try

JUST_BELOW_1 = float(np.nextafter(1.0, 0.0))
SIZES = (3, 64, 65, 5_000, 151_936)
"""One block of the CDF, its edge, several, and the largest vocabulary."""
GENERATED = (1, 3, 3, 3, 0, 77)


def law_in(room: NDArray[np.float32], logits: Logits, sampling: Sampling = PLAIN) -> ArrayLaw:
    return to_law(logits, sampling, GENERATED, len(room), room)


def drafted(num_ids: int) -> tuple[ArrayLaw, Floats]:
    """A drafter's law and the weights in its room, in double precision."""
    logits = np.random.default_rng(num_ids).normal(0, 3, num_ids).astype(np.float32)
    room = np.full(num_ids, np.nan, np.float32)
    law = law_in(room, logits)
    assert law._weights is room
    return law, room.astype(np.float64)


@pytest.mark.parametrize("num_ids", SIZES)
def test_probabilities_are_the_weights_over_their_sum_in_double_precision(num_ids: int) -> None:
    law, weights = drafted(num_ids)
    wanted = weights / math.fsum(weights)
    assert law.probs.dtype == np.float64
    assert abs(math.fsum(law.probs) - 1) < 1e-12
    np.testing.assert_allclose(law.probs, wanted, rtol=1e-12)
    some = np.random.default_rng(1).integers(-2, num_ids + 2, 200)
    known = (some >= 0) & (some < num_ids)
    found = law.prob(some)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.where(known, law.probs.take(some, mode="clip"), 0.0))
    assert [prob_of(law, int(id_)) for id_ in some] == found.tolist()


@pytest.mark.parametrize("num_ids", SIZES)
def test_each_id_is_drawn_on_just_its_own_share_of_the_unit_interval(num_ids: int) -> None:
    """From one end of it to the other: a sum of single precision would be off by far more."""
    law, _ = drafted(num_ids)
    ends = np.cumsum(law.probs)
    starts = ends - law.probs
    clear = np.flatnonzero(law.probs > 1e-7)
    clear = clear[:: max(1, len(clear) // 2_000)]
    inside = law.probs[clear] * 1e-4
    for uniforms in (starts[clear] + inside, ends[clear] - inside):
        one_by_one = [int(law.draw(uniform[None])[0]) for uniform in uniforms]
        np.testing.assert_array_equal(one_by_one, clear)
    for uniforms in (starts[clear] + inside, ends[clear] - inside):
        many = np.tile(uniforms, 1 + num_ids // 1_000)  # so many that all sums pay
        np.testing.assert_array_equal(law.draw(many)[: len(clear)], clear)


@pytest.mark.parametrize("row", rows_to_try().values(), ids=rows_to_try())
def test_every_combination_of_parameters_gives_the_reference_law_but_for_rounding(
    row: Logits,
) -> None:
    for sampling in every_sampling()[::3]:
        reference = Reference()
        wanted = reference.probs(Case(row, sampling, GENERATED))
        if reference.margin > 1e-5:  # else rounding may decide what top-p keeps
            law = law_in(np.empty(len(row), np.float32), row, sampling)
            found = law.prob(np.arange(len(row)))
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-30, err_msg=str(sampling))
            assert abs(math.fsum(law.probs) - 1) < 1e-12


def test_an_id_with_all_mass_and_ids_of_none() -> None:
    room = np.empty(200, np.float32)
    far = np.full(200, -200.0, np.float32)  # exp(-300) is 0 in single precision, not in double
    far[[7, 150]] = 100.0
    law = law_in(room, far)
    assert law.support().tolist() == [7, 150]
    assert law.probs.tolist() == [0.5, 0.5]
    masked = np.full(200, -INF, np.float32)
    masked[150] = -3.0
    law = law_in(room, masked)
    assert (law.support().tolist(), law.probs.tolist()) == ([150], [1.0])
    assert {int(law.draw(np.array([u]))[0]) for u in (0.0, 0.5, JUST_BELOW_1)} == {150}


def test_weights_below_the_smallest_normal_number_stay_in_the_law() -> None:
    law = law_in(np.empty(2, np.float32), np.array([0.0, -100.0], np.float32))
    assert law.probs[1] == pytest.approx(math.exp(-100), rel=0.05)
    light = np.array([1.0] * 4_096 + [2.0**-149, 0.0], np.float32)
    law = ArrayLaw.dense(light)
    assert len(law.support()) == 4_097
    assert law.prob_of(4_096) == 2.0**-161


@pytest.mark.parametrize("temperature", [1e-310, 5e-324, 1e-42, 1e-20])
def test_a_tiny_temperature_is_greedy_but_for_ties(temperature: float) -> None:
    logits = np.array([1.0, 2.0, 2.0, -INF, 0.0], np.float32)
    law = law_in(np.empty(5, np.float32), logits, Sampling(temperature=temperature))
    assert law.prob(np.arange(5)).tolist() == [0, 0.5, 0.5, 0, 0]


def test_penalties_may_leave_the_range_of_single_precision() -> None:
    logits = np.array([3e38, 3e38, 1.0, -3e38], np.float32)
    with np.errstate(over="ignore"):  # numpy speaks of it; the law is right
        law = law_in(np.empty(4, np.float32), logits, Sampling(repetition_penalty=0.01))
    assert law.prob(np.arange(4)).tolist() == [0.5, 0.5, 0, 0]


def test_the_nucleus_is_that_of_sums_in_double_precision() -> None:
    weights = np.exp(np.random.default_rng(2).normal(0, 1, 5_000)).astype(np.float32)
    falling = np.sort(weights.astype(np.float64))[::-1]
    sums = np.cumsum(falling)
    for count in range(1, 4_000, 40):
        edge = float(sums[count - 1])
        just = [(edge + part * falling[count]) / sums[-1] for part in (-1e-4, 1e-4)]
        assert [len(nucleus(weights, share)) for share in just] == [count, count + 1]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_masked_logit_that_leaves_single_precision_warns_nobody(temperature: float) -> None:
    logits = np.zeros(100, np.float32)
    logits[3] = np.finfo(np.float32).min  # among the generated ones: a penalty makes it lower still
    sampling = Sampling(temperature=temperature, repetition_penalty=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law = law_in(np.empty(100, np.float32), logits, sampling)
    assert law.support().tolist() == [i for i in range(100) if i != 3]
