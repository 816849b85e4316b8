"""Laws whose probabilities are multiples of 1/ℓ, and the number that stands for one of them.

All C(V + ℓ − 1, ℓ) ways to share ℓ units among V ids are numbered without gaps: first by how many ids
get any, then by which (combinatorial number system), then by where the shares are cut. The number
therefore takes ⌈log2 C(V + ℓ − 1, ℓ)⌉ bits, and fewer where at most K ids may get units.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.law import Floats, Ids

Counts = NDArray[np.int64]

_MAX_STEPS = 12


def quantise(probs: Floats, resolution: int) -> Counts:
    """Integers (n,) ≥ 0 that sum to ℓ = resolution, each within 1 of ℓ · prob.

    As in Quantize-Sample-and-Verify (arXiv 2507.00605): ⌊ℓ · prob + 1/2⌋, then one unit is taken from,
    or given to, the entries that rounding moved most. At most half of them need it.
    """
    scaled = probs * (resolution / probs.sum())
    counts: Counts = np.floor(scaled + 0.5).astype(np.int64)
    surplus = int(counts.sum()) - resolution
    if surplus:
        sign = 1 if surplus > 0 else -1
        moved_most = np.argpartition(sign * (scaled - counts), abs(surplus) - 1)
        counts[moved_most[: abs(surplus)]] -= sign
    return counts


class LatticeCode:
    """Numbers for the ways to share ℓ units among at most K of V ids."""

    def __init__(self, num_ids: int, resolution: int, max_kept: int) -> None:
        self._resolution = resolution
        self._cuts: list[int] = []
        """Ways to cut ℓ units into 1, 2, … parts."""
        self._starts = [0]
        """The smallest number with 1, 2, … kept ids; the last entry is the count of all."""
        subsets = cuts = 1
        for kept in range(1, min(num_ids, resolution, max_kept) + 1):
            subsets = subsets * (num_ids - kept + 1) // kept
            self._cuts.append(cuts)
            self._starts.append(self._starts[-1] + subsets * cuts)
            cuts = cuts * (resolution - kept) // kept

    @property
    def num_bits(self) -> int:
        """⌈log2 of the count of all numbers⌉."""
        return (self._starts[-1] - 1).bit_length()

    @property
    def num_numbers(self) -> int:
        """Numbers from here on stand for nothing."""
        return self._starts[-1]

    def number(self, ids: Ids, counts: Counts) -> int:
        """The number of ids (n,), ascending, with counts (n,) ≥ 1 that sum to ℓ."""
        kept = len(ids)
        subset = subset_rank(ids.tolist())
        cut = subset_rank((np.cumsum(counts)[:-1] - 1).tolist())
        return self._starts[kept - 1] + subset * self._cuts[kept - 1] + cut

    def parts(self, number: int) -> tuple[Ids, Counts]:
        """The ids and counts of a number below `num_numbers`."""
        kept = bisect_right(self._starts, number)
        subset, cut = divmod(number - self._starts[kept - 1], self._cuts[kept - 1])
        ids = subset_of_rank(subset, kept)
        ends = subset_of_rank(cut, kept - 1)
        counts = np.diff([-1, *ends, self._resolution - 1])
        return np.array(ids, np.int64), counts.astype(np.int64)


@lru_cache(maxsize=8)
def lattice_code(num_ids: int, resolution: int, max_kept: int) -> LatticeCode:
    """The code of these sizes; its tables take milliseconds to make, so they are kept."""
    return LatticeCode(num_ids, resolution, max_kept)


def subset_rank(members: Iterable[int]) -> int:
    """Σ C(member_j, j) over the members, ascending, j = 1, 2, …: a bijection for each size."""
    return sum(math.comb(member, j) for j, member in enumerate(members, 1))


def subset_of_rank(rank: int, count: int) -> list[int]:
    """The `count` members, ascending, of this rank."""
    members: list[int] = []
    # Everything times j!, as n (n − 1) … (n − j + 1) takes a third of the time of C(n, j).
    left = rank * math.factorial(count)
    for j in range(count, 0, -1):
        if left == 0:  # the lowest members there are
            return [*range(j), *reversed(members)]
        member, below = _largest(left, j)
        members.append(member)
        left = (left - below) // j
    return members[::-1]


def _largest(goal: int, j: int) -> tuple[int, int]:
    """The largest n with n (n − 1) … (n − j + 1) ≤ goal, and that product; goal ≥ j!."""
    log_goal = math.log(goal)
    n = max(float(j), math.exp(log_goal / j) + (j - 1) / 2)
    # Newton on the logarithm: it is concave, so from the second step on n grows towards the root.
    for _ in range(_MAX_STEPS):
        missing = log_goal - math.lgamma(n + 1) + math.lgamma(n - j + 1)
        step = max(missing / math.log((n + 0.5) / (n - j + 0.5)), j - n)
        n += step
        if abs(step) < 0.01:
            break
    # Doubles err by a few at most: the rest is done in whole numbers.
    largest = int(n)
    product = math.perm(largest, j)
    while product > goal:
        product, largest = product * (largest - j) // largest, largest - 1
    while (next_product := product * (largest + 1) // (largest + 1 - j)) <= goal:
        product, largest = next_product, largest + 1
    return largest, product
