"""The table of doubles whose indices stand for probabilities on the wire.

Level 0 is 0.0 and the last level is 1.0; between them stand all doubles in [2^-num_octaves, 1)
whose mantissa has `mantissa_bits` bits. Rounding is integer arithmetic on the bits of a double, so
both ends agree exactly on every machine: no exp2, no log2. Neighbours differ by a factor of at most
1 + 2^-mantissa_bits.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.law import Floats

Indices = NDArray[np.int64]

_MANTISSA_BITS = 52
_BIAS = 1023
_AS_DOUBLE, _AS_INTEGER = struct.Struct("<d").pack, struct.Struct("<q").unpack


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of 2 + num_octaves · 2^mantissa_bits levels."""

    mantissa_bits: int
    num_octaves: int
    num_levels: int = field(init=False)
    index_bits: int = field(init=False)
    """Bits that hold any index."""
    _shift: int = field(init=False)
    """Bits of a double's mantissa that a level does not have."""
    _offset: int = field(init=False)

    def __post_init__(self) -> None:
        """What follows from the two is asked for with every token, so it is kept."""
        num_levels = 2 + (self.num_octaves << self.mantissa_bits)
        object.__setattr__(self, "num_levels", num_levels)
        object.__setattr__(self, "index_bits", (num_levels - 1).bit_length())
        object.__setattr__(self, "_shift", _MANTISSA_BITS - self.mantissa_bits)
        # The truncated bits of 2^-num_octaves, the smallest level above 0, map to index 1.
        offset = ((_BIAS - self.num_octaves) << self.mantissa_bits) - 1
        object.__setattr__(self, "_offset", offset)

    def floor(self, values: Floats) -> Indices:
        """Index of the largest level ≤ each value in [0, 1]."""
        bits = np.ascontiguousarray(values, np.float64).view(np.int64)
        floor: Indices = np.maximum((bits >> self._shift) - self._offset, 0)
        return floor

    def rounded(self, values: Floats) -> tuple[Indices, Floats]:
        """`floor` of values (n,) in [0, 1], and the levels there."""
        kept = np.ascontiguousarray(values, np.float64).view(np.int64) >> self._shift
        indices = np.maximum(kept - self._offset, 0)
        return indices, np.where(indices == 0, 0.0, (kept << self._shift).view(np.float64))

    def floor_of(self, value: float) -> int:
        """The same for one value."""
        bits: int = _AS_INTEGER(_AS_DOUBLE(value))[0]
        return max(0, (bits >> self._shift) - self._offset)

    def ceil_of(self, value: float) -> int:
        """Index of the smallest level ≥ a value in [0, 1]: the one after the largest below it."""
        return self.floor_of(math.nextafter(value, 0.0)) + 1 if value else 0

    def level(self, indices: Indices) -> Floats:
        """The doubles at the indices."""
        indices = np.asarray(indices, np.int64)
        bits = (indices + self._offset) << self._shift
        return np.where(indices == 0, 0.0, bits.view(np.float64))


GRID = Grid(mantissa_bits=6, num_octaves=31)
"""The protocol's grid: 11-bit indices, steps of 0.8 to 1.6 %, smallest level 2^-31."""
