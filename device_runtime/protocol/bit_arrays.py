"""Arrays of numbers of a few bits each ↔ a block of bits, in one step instead of one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.wire import BitReader, BitWriter


def put_array(bits: BitWriter, values: NDArray[np.int64], num_bits: int) -> None:
    """Values (n,), each in `num_bits` bits."""
    shifts = np.arange(num_bits - 1, -1, -1)
    columns = (values[:, None] >> shifts & 1).astype(np.uint8)  # (n, num_bits)
    total = columns.size
    packed = int.from_bytes(np.packbits(columns).tobytes(), "big")
    bits.put(packed >> (-total % 8), total)


def take_array(bits: BitReader, count: int, num_bits: int) -> NDArray[np.int64]:
    """The values (count,) that `put_array` wrote."""
    total = count * num_bits
    padding = -total % 8
    packed = (bits.take(total) << padding).to_bytes((total + padding) // 8, "big")
    columns = np.unpackbits(np.frombuffer(packed, np.uint8), count=total)
    weights = 1 << np.arange(num_bits - 1, -1, -1, dtype=np.int64)
    values: NDArray[np.int64] = columns.reshape(count, num_bits).astype(np.int64) @ weights
    return values
