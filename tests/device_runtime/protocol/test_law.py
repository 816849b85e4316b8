from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.law import ArrayLaw, Floats, overlap, prob_of
from tests.law_fixture import Laws, every_kind

JUST_BELOW_1 = float(np.nextafter(1.0, 0.0))
weight_lists = st.lists(
    st.sampled_from((0.0, 5e-324, 1e-300, 1e-9, 1.0)) | st.floats(1e-6, 1.0),
    min_size=1,
    max_size=40,
).filter(lambda weights: max(weights) > 1e-10)


@every_kind
@settings(max_examples=100, deadline=None)
@given(weights=weight_lists)
def test_probabilities_are_normalised_weights_and_the_support_is_where_they_are(
    laws: Laws, weights: list[float]
) -> None:
    array = np.array(weights)
    law = laws.law(array.copy())
    expected = array / array.sum()
    np.testing.assert_allclose(law.prob(np.arange(len(array))), expected, rtol=1e-14)
    np.testing.assert_array_equal(law.support(), np.flatnonzero(expected))
    np.testing.assert_allclose(law.prob(law.support()).sum(), 1.0, rtol=1e-12)


@every_kind
@pytest.mark.parametrize("weights", [[1.0, 2.0, 1.0], [0.0, 1.0, 0.0, 3.0, 0.0]])
def test_ids_outside_the_support_have_probability_zero(laws: Laws, weights: list[float]) -> None:
    law = laws.law(np.array(weights))
    outside = np.array([-7, -1, len(weights), len(weights) + 50])
    assert law.prob(outside).tolist() == [0, 0, 0, 0]
    assert law.prob(np.array([], np.int64)).tolist() == []
    assert prob_of(law, 3) == pytest.approx(weights[3] / 4 if len(weights) > 3 else 0)


@every_kind
@settings(max_examples=100, deadline=None)
@given(weights=weight_lists, more=st.lists(st.floats(0.0, JUST_BELOW_1), max_size=20))
def test_draws_are_the_inverse_of_the_cdf_and_never_leave_the_support(
    laws: Laws, weights: list[float], more: list[float]
) -> None:
    law = laws.law(np.array(weights))
    ids = law.support()
    cdf = np.cumsum(law.prob(ids))
    middles = cdf - law.prob(ids) / 2
    clear = law.prob(ids) > 1e-12
    np.testing.assert_array_equal(law.draw(middles[clear]), ids[clear])
    # What is so light that rounding hides it may or may not be drawn; what is outside may not.
    assert set(law.draw(np.array([0.0, JUST_BELOW_1, *more])).tolist()) <= set(ids.tolist())
    assert law.draw(np.zeros(1))[0] == ids[0]


def large_weights(kind: str) -> Floats:
    rng = np.random.default_rng(3)
    weights = np.exp(rng.normal(0, 4, 10_007))
    if kind == "gaps":
        weights[rng.random(10_007) < 0.3] = 0.0
    return weights


@every_kind
@pytest.mark.parametrize("kind", ["dense", "gaps"])
@pytest.mark.parametrize("count", [1, 5, 400])
def test_draws_from_large_laws_are_the_same_however_many_are_asked_for(
    laws: Laws, kind: str, count: int
) -> None:
    weights = large_weights(kind)
    uniforms = np.random.default_rng(4).random(count)
    uniforms[0] = JUST_BELOW_1
    expected = np.searchsorted(np.cumsum(weights) / weights.sum(), uniforms, side="right")
    expected[0] = np.flatnonzero(weights)[-1]
    law = laws.law(weights)
    drawn = law.draw(uniforms)
    np.testing.assert_array_equal(drawn, expected)
    law.draw(uniforms[:1])
    np.testing.assert_array_equal(law.prob(drawn), law.prob(drawn.copy()))
    again = law.draw(uniforms[::-1].copy())
    np.testing.assert_array_equal(law.prob(again), law.prob(again.copy()))


def test_a_few_draws_by_block_cover_every_id_in_turn() -> None:
    weights = large_weights("gaps")[:5000]
    law = ArrayLaw.dense(weights)
    middles = np.cumsum(law.probs) - law.probs / 2
    clear = law.probs > 1e-12
    drawn = [int(law.draw(middles[i : i + 1])[0]) for i in range(len(middles))]
    np.testing.assert_array_equal(np.array(drawn)[clear], law.ids[clear])
    assert set(drawn) <= set(law.ids.tolist())
    assert law.draw(np.empty(0)).tolist() == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_uniform_on_the_border_of_two_ids_draws_the_second(dtype: type) -> None:
    """One by one or all at once: shares of the unit interval contain their lower end."""
    ids = np.arange(4096)
    borders = ids / 4096
    law = ArrayLaw.dense(np.ones(4096, dtype))
    assert [int(law.draw(border[None])[0]) for border in borders] == ids.tolist()
    np.testing.assert_array_equal(law.draw(borders), ids)


@every_kind
def test_each_share_of_the_unit_interval_contains_its_lower_end(laws: Laws) -> None:
    law = laws.law(np.array([1.0, 0.0, 1.0, 2.0]))
    assert law.draw(np.array([0.0, 0.25, 0.5])).tolist() == [0, 2, 3]


@every_kind
def test_overlap_is_the_shared_mass(laws: Laws) -> None:
    p, q = laws.law(np.array([1.0, 1.0, 2.0])), laws.law(np.array([0.0, 3.0, 1.0, 4.0]))
    assert overlap(p, q) == pytest.approx(1 / 4 + 1 / 8)
    assert overlap(p, p) == pytest.approx(1.0)


def test_a_one_hot_law_always_draws_its_id() -> None:
    law = ArrayLaw.one_hot(7)
    assert law.draw(np.array([0.0, 0.5, JUST_BELOW_1])).tolist() == [7, 7, 7]
    assert law.prob(np.array([6, 7, 8])).tolist() == [0, 1, 0]
