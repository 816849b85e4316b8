"""Probabilities as 16-bit grid indices that stand for integers: the numbers of `dsd` and `tk-slt`.

A probability is divided by the largest of its law and rounded down to a grid of 16 bits (b_prob = 16,
as in the papers; finer and wider than half floats). Every level is a multiple of 2^-35, so the
weights are integers ≤ 2^35.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.grid import Grid, Indices
from device_runtime.protocol.law import Floats
from device_runtime.protocol.wire import malformed

_GRID = Grid(mantissa_bits=11, num_octaves=24)
WEIGHT_BITS = _GRID.index_bits
_SCALE = 2.0**35

Weights = NDArray[np.int64]


def to_weights(probs: Floats) -> Weights:
    """Integers (n,) in 0 … 2^35, proportional to probs (n,) up to rounding; the largest is 2^35."""
    return from_indices(_GRID.floor(probs / probs.max()))


def to_indices(weights: Weights) -> Indices:
    """The indices (n,) of weights (n,) that `to_weights` made."""
    return _GRID.floor(weights / _SCALE)


def from_indices(indices: Indices) -> Weights:
    """The weights (n,) of indices (n,) ≥ 0; RemoteError on an index beyond the grid."""
    if indices.size and indices.max() >= _GRID.num_levels:
        raise malformed("a weight's index is out of range")
    return (_GRID.level(indices) * _SCALE).astype(np.int64)
