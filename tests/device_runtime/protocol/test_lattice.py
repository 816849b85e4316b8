"""Laws of multiples of 1/ℓ and their numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.lattice import (
    LatticeCode,
    _largest,
    lattice_code,
    quantise,
    subset_of_rank,
    subset_rank,
)


def compositions(num_ids: int, resolution: int) -> list[tuple[int, ...]]:
    """All ways to share `resolution` units among ids."""
    every = itertools.product(range(resolution + 1), repeat=num_ids)
    return [counts for counts in every if sum(counts) == resolution]


@pytest.mark.parametrize(
    ("num_ids", "resolution"), [(1, 1), (1, 5), (4, 1), (3, 5), (5, 3), (6, 6)]
)
def test_every_law_has_its_own_number_and_no_number_is_left_over(
    num_ids: int, resolution: int
) -> None:
    code = LatticeCode(num_ids, resolution, resolution)
    numbers = set()
    for counts in compositions(num_ids, resolution):
        ids = np.flatnonzero(counts)
        kept = np.array(counts)[ids]
        number = code.number(ids, kept)
        numbers.add(number)
        found_ids, found_counts = code.parts(number)
        assert found_ids.tolist() == ids.tolist()
        assert found_counts.tolist() == kept.tolist()
    assert numbers == set(range(code.num_numbers))
    assert code.num_numbers == math.comb(resolution + num_ids - 1, resolution)


def test_a_cap_on_the_kept_ids_leaves_fewer_numbers() -> None:
    code = LatticeCode(6, 4, max_kept=2)
    capped = [counts for counts in compositions(6, 4) if np.count_nonzero(counts) <= 2]
    assert code.num_numbers == len(capped)
    assert code.num_bits == math.ceil(math.log2(len(capped)))


@pytest.mark.parametrize(("resolution", "num_bits"), [(240, 2_209 - 16), (720, 5_467 - 16)])
def test_numbers_take_the_published_bits(resolution: int, num_bits: int) -> None:
    """Quantize-Sample-and-Verify at V = 50,272; 16 bits of its figures are the drafted id."""
    assert lattice_code(50_272, resolution, resolution).num_bits == num_bits


@pytest.mark.parametrize(("num_kept", "resolution"), [(4, 240), (32, 240), (32, 720)])
def test_a_capped_number_is_no_longer_than_ids_and_lattice_apart(
    num_kept: int, resolution: int
) -> None:
    apart = math.comb(8_192, num_kept) * math.comb(resolution + num_kept - 1, num_kept - 1)
    assert lattice_code(8_192, resolution, num_kept).num_bits <= (apart - 1).bit_length()


@given(
    members=st.sets(st.integers(0, (1 << 24) - 1) | st.integers(0, 300), max_size=60),
    shift=st.sampled_from([-1, 0, 1]),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_subset_is_found_again_from_its_rank(members: set[int], shift: int) -> None:
    rank = max(0, subset_rank(sorted(members)) + shift) if members else 0
    found = subset_of_rank(rank, len(members))
    assert found == sorted(set(found))
    assert len(found) == len(members)
    assert subset_rank(found) == rank


def test_subsets_of_a_large_vocabulary_come_back() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 30, 240):
        members = sorted(rng.choice(50_272, size, replace=False).tolist())
        assert subset_of_rank(subset_rank(members), size) == members


class Compared(int):
    """A whole number that counts how often another is held against it."""

    num_times = 0

    def __ge__(self, other: int) -> bool:
        self.num_times += 1
        return super().__ge__(other)

    def __lt__(self, other: int) -> bool:
        self.num_times += 1
        return super().__lt__(other)


@pytest.mark.parametrize("num_ids", [300, 151_936, 1 << 24])
@pytest.mark.parametrize("j", [1, 2, 30, 239, 240])
def test_a_member_is_found_within_a_few_steps_in_whole_numbers(num_ids: int, j: int) -> None:
    """A number from a stranger must not keep the edge searching: doubles find the place."""
    for n in (j, j + 1, num_ids - 50, num_ids - 1):
        product = math.perm(n, j)
        for goal, largest in ((product, n), (math.perm(n + 1, j) - 1, n)):
            compared = Compared(goal)
            assert _largest(compared, j) == (largest, product)
            assert compared.num_times <= 6


def test_the_dearest_number_takes_one_product_per_member_and_no_binomial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = lattice_code(151_936, 240, 240)
    counts = {"perm": 0, "comb": 0}

    def counted(name: str) -> Callable[[int, int], int]:
        calculate: Callable[[int, int], int] = getattr(math, name)

        def calculated(n: int, k: int) -> int:
            counts[name] += 1
            return calculate(n, k)

        return calculated

    for name in counts:
        monkeypatch.setattr(math, name, counted(name))
    ids, units = code.parts(code.num_numbers - 1)
    assert ids.tolist() == list(range(151_936 - 240, 151_936))
    assert units.tolist() == [1] * 240
    assert counts["comb"] == 0
    assert counts["perm"] <= 240 + 239


@given(
    weights=st.lists(st.floats(1e-9, 1.0) | st.just(0.5), min_size=1, max_size=40),
    resolution=st.integers(1, 300),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_quantising_keeps_the_sum_and_stays_within_a_unit(
    weights: list[float], resolution: int
) -> None:
    probs = np.array(weights) / sum(weights)
    counts = quantise(probs, resolution)
    assert counts.sum() == resolution
    assert counts.min() >= 0
    assert np.abs(counts - resolution * probs).max() < 1 + 1e-9


def test_quantising_a_flat_law_gives_single_units() -> None:
    """All round to 0; one unit each goes to as many as there are units."""
    counts = quantise(np.full(1_000, 1e-3), 240)
    assert sorted(counts.tolist()) == [0] * 760 + [1] * 240


def test_quantising_rounds_up_where_halves_would_overflow() -> None:
    """Four times 2.5 round to 3 each: two of them must give a unit back."""
    counts = quantise(np.full(4, 0.25), 10)
    assert sorted(counts.tolist()) == [2, 2, 3, 3]
