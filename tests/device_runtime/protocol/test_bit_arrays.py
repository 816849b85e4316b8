"""Arrays of a few bits each in a block of bits."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.bit_arrays import put_array, take_array
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.wire import BitReader, BitWriter


@pytest.mark.parametrize("num_bits", [1, 3, 8, 13, 16, 24])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_an_array_is_what_its_numbers_one_by_one_are(num_bits: int, count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << num_bits, count)
    at_once, one_by_one = BitWriter(), BitWriter()
    for bits in (at_once, one_by_one):
        bits.put(5, 3)
    put_array(at_once, values, num_bits)
    for value in values.tolist():
        one_by_one.put(value, num_bits)
    assert at_once.getvalue() == one_by_one.getvalue()
    reader = BitReader(at_once.getvalue())
    assert reader.take(3) == 5
    assert take_array(reader, count, num_bits).tolist() == values.tolist()
    reader.finish()


def test_an_array_longer_than_the_block_is_malformed() -> None:
    with pytest.raises(RemoteError) as refused:
        take_array(BitReader(bytes(100)), 1 << 31, 17)
    assert refused.value.code is ErrorCode.MALFORMED
