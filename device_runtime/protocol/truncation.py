"""Which weights top-k and top-p keep, by threshold search instead of a sort of the vocabulary.

The order is: heavier first, the lower id among equals. A threshold weight says it all: what is
heavier is kept, what is lighter is dropped, and of the ids exactly on it the lowest are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.law import Floats, Ids, Weights

_SMALL = 256
"""So many weights are sorted as fast as they are halved."""
_BLOCK = 64


def heaviest(weights: Weights, count: int) -> Ids:
    """Positions, ascending, of the first `count` in the order; 0 < count < n."""
    threshold = np.partition(weights, len(weights) - count)[len(weights) - count]
    return _first(weights, float(threshold), count)


def nucleus(weights: Weights, share: float) -> Ids:
    """Positions, ascending, of the fewest first in the order whose sum reaches share · total."""
    total = float(weights.sum(dtype=np.float64))
    goal = share * total
    # What is lighter than `bound` weighs at most (1 − share) · total in all, so it can go. Most
    # laws are so peaked that far more can.
    bound = (1 - share) * total / len(weights)
    for factor in (16.0, 4.0, 0.5, 0.0):
        candidates = (weights >= factor * bound).nonzero()[0]
        heavy = weights.take(candidates).astype(np.float64, copy=False)  # for the sums
        if heavy.sum() >= goal:
            break
    return candidates.take(_first(heavy, *_reach(heavy, goal)))


def _reach(weights: Floats, goal: float) -> tuple[float, int]:
    """How far down the order one must go for the sum `goal`: the last weight and the count."""
    count = 0
    while len(weights) > _SMALL:
        half = len(weights) // 2
        weights = np.partition(weights, half)
        mass = float(weights[half:].sum())
        if mass >= goal:
            weights = weights[half:]
        else:
            goal -= mass
            count += len(weights) - half
            weights = weights[:half]
    falling = np.sort(weights)[::-1]
    # Rounding may leave the sum of all just below the goal.
    last = min(int(falling.cumsum().searchsorted(goal)), len(falling) - 1)
    return float(falling[last]), count + last + 1


def _first(weights: Weights, threshold: float, count: int) -> Ids:
    """Positions of the first `count` in the order, the last of which weighs `threshold`."""
    kept = weights > threshold
    num_equal = count - int(np.count_nonzero(kept))
    kept[(weights == threshold).nonzero()[0][:num_equal]] = True
    return kept.nonzero()[0]


def below_kth_largest(values: NDArray[np.float32] | Floats, count: int) -> float:
    """A value that at least `count` of `values` (n,) reach, and usually not many more.

    It is the count-th largest among the maxima of blocks of ids that lie far apart.
    """
    num_blocks = max(len(values) // _BLOCK, min(4 * count, len(values)))
    block = len(values) // num_blocks
    maxima = values[: block * num_blocks].reshape(block, num_blocks).max(axis=0)
    return float(np.partition(maxima, num_blocks - count)[num_blocks - count])
