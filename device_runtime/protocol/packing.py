"""A row of (id, number) pairs ↔ bytes: gaps between ids, and numbers, each in an exp-Golomb code.

The code of v ≥ 0 of order o: w = v + 2^o has o + 1 + b bits; b is sent in unary, then w without its
leading bit. Small values are short, and no table is sent. The unary parts of all values stand
together before the bits of all, so both ends work on whole arrays instead of one value after another.

Bytes from a stranger: the count is checked first, and no array is longer than the bytes allow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.law import Ids
from device_runtime.protocol.wire import Reader, Writer, malformed

Numbers = NDArray[np.int64]
Bits = NDArray[np.uint8]

_MAX_ORDER = 15
"""Two orders share a byte."""
_MAX_BYTES_PER_ENTRY = 8
_MAX_FIELD_BITS = 32


def write_row(out: Writer, ids: Ids, numbers: Numbers) -> None:
    """ids (n,) ascending, numbers (n,) ≥ 1; the row is the rest of the message."""
    columns = (np.diff(ids, prepend=-1) - 1, numbers - 1)
    orders = [best_order(column) for column in columns]
    parts = [_split(column, order) for column, order in zip(columns, orders, strict=True)]
    lengths, fields, widths = (np.concatenate(part) for part in zip(*parts, strict=True))
    out.varint(len(ids))
    out.u8(orders[0] << 4 | orders[1])
    out.rest(np.packbits(np.concatenate([_to_unary(lengths), _to_bits(fields, widths)])).tobytes())


def read_row(data: Reader, num_ids: int, max_number: int) -> tuple[Ids, Numbers]:
    """The ids and numbers that `write_row` wrote; RemoteError on anything else."""
    count = data.varint(num_ids)
    orders = data.u8()
    raw = data.rest()
    if len(raw) > _MAX_BYTES_PER_ENTRY * count:
        raise malformed(f"a row of {count} entries takes {len(raw)} bytes")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8))
    lengths, num_unary = _from_unary(bits, 2 * count)
    order = np.repeat([orders >> 4, orders & 15], count)
    widths = lengths + order
    if count and int(widths.max()) > _MAX_FIELD_BITS:
        raise malformed("a number of a row has too many bits")
    fields, num_bits = _from_bits(bits[num_unary:], widths)
    if len(bits) - num_unary - num_bits >= 8 or bits[num_unary + num_bits :].any():
        raise malformed("bits follow the end of a row")
    values = fields + (1 << widths) - (1 << order)
    ids = np.cumsum(values[:count] + 1) - 1
    numbers = values[count:] + 1
    if count and (int(ids[-1]) >= num_ids or int(numbers.max()) > max_number):
        raise malformed("a row holds an id or a number out of range")
    return ids, numbers


def best_order(values: Numbers) -> int:
    """The order with the fewest bits for these values."""
    orders = np.arange(_MAX_ORDER + 1)
    costs = [2 * _lengths(values, order).sum() + order * len(values) for order in orders.tolist()]
    return int(np.argmin(costs))


def _lengths(values: Numbers, order: int) -> Numbers:
    """b of each value: how many bits it has more than the shortest."""
    lengths: Numbers = np.frexp((values >> order) + 1)[1].astype(np.int64) - 1
    return lengths


def _split(values: Numbers, order: int) -> tuple[Numbers, Numbers, Numbers]:
    """Unary parts, bits after them, and how many those are."""
    lengths = _lengths(values, order)
    widths = lengths + order
    return lengths, values + (1 << order) - (1 << widths), widths


def _to_unary(lengths: Numbers) -> Bits:
    """Each as so many zeros and a one."""
    ends = np.cumsum(lengths + 1)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    bits[ends - 1] = 1
    return bits


def _from_unary(bits: Bits, count: int) -> tuple[Numbers, int]:
    """The first `count` of them, and how many bits they take."""
    ends = np.flatnonzero(bits)[:count]
    if len(ends) < count:
        raise malformed(f"a row ends before its {count} numbers")
    return np.diff(ends, prepend=-1) - 1, int(ends[-1]) + 1 if count else 0


def _shifts(widths: Numbers) -> Numbers:
    """For every bit of fields (n,) of these widths: its place from the right."""
    return np.repeat(np.cumsum(widths), widths) - 1 - np.arange(int(widths.sum()))


def _to_bits(fields: Numbers, widths: Numbers) -> Bits:
    """Each field in so many bits, high bits first."""
    return (np.repeat(fields, widths) >> _shifts(widths) & 1).astype(np.uint8)


def _from_bits(bits: Bits, widths: Numbers) -> tuple[Numbers, int]:
    """Fields (n,), and how many bits they take."""
    total = int(widths.sum())
    if total > len(bits):
        raise malformed("a row ends inside a number")
    sums = np.concatenate([[0], np.cumsum(bits[:total].astype(np.int64) << _shifts(widths))])
    ends = np.cumsum(widths)
    return sums[ends] - sums[ends - widths], total
