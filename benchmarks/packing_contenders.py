"""Ways to write the row of `dssd-packed`, and how many bits its content holds at least.

All contenders but the raw ones and the log grid write the same content: the ids kept and their
numbers (whole multiples of the row's step). The winner is `device_runtime.protocol.packing`. It,
zstandard and the range coder of a library are measured on the bytes they write. Of the other losers
only the bits are counted, without the bytes they would round up to: they lose even so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.packing_learned import RangeCoder, TrainedZstandard, Zstandard, has_range_coder
from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.packing import read_row, write_row
from device_runtime.protocol.schemes.packed import DssdPacked
from device_runtime.protocol.wire import Reader, Writer

LOG_GRID = Grid(mantissa_bits=5, num_octaves=20)
"""A grid of relative steps that costs about as much acceptance as the scheme's own rounding."""


@dataclass(frozen=True)
class Row:
    """One rejected row: p, and what the scheme keeps of it."""

    num_ids: int
    num_support: int
    gaps: NDArray[np.int64]
    """Ids skipped before each id kept."""
    numbers: NDArray[np.int64]
    """≥ 1."""
    exponent: int
    on_log_grid: bytes
    """The same law on the log grid: gaps and indices as byte planes."""

    @classmethod
    def of(cls, p: ArrayLaw, num_ids: int, scheme: DssdPacked) -> Row:
        """Round p as the scheme does."""
        rounding = scheme.rounding(p)
        numbers = rounding.number(p.probs)
        kept = numbers > 0
        gaps = np.diff(p.ids[kept], prepend=-1) - 1
        indices = LOG_GRID.floor(p.probs)
        planes = byte_planes(np.diff(p.ids[indices > 0], prepend=-1) - 1, indices[indices > 0])
        return cls(num_ids, len(p.ids), gaps, numbers[kept], rounding.exponent, planes)

    @property
    def num_kept(self) -> int:
        return len(self.gaps)

    @property
    def id_bits(self) -> int:
        return (self.num_ids - 1).bit_length()

    @property
    def is_one_hot(self) -> bool:
        """Whether one id is all that is sent: no step, no numbers, no draw beside it."""
        return self.num_support == 1

    @property
    def planes(self) -> bytes:
        """Gaps and numbers as byte planes."""
        return byte_planes(self.gaps, self.numbers)


Contender = Callable[[Row], float]
"""Bytes of a row."""


def contenders(training: Sequence[Row]) -> dict[str, Contender]:
    """All of them; those that learn, learn from `training`."""
    zstandard = Zstandard()
    on_steps = TrainedZstandard([row.planes for row in training])
    on_log_grid = TrainedZstandard([row.on_log_grid for row in training])
    found: dict[str, Contender] = {
        "raw fp32": lambda row: 4.0 * row.num_ids,
        "raw fp16": lambda row: 2.0 * row.num_ids,
        "sparse: id, fp16": lambda row: row.num_support * (row.id_bits + 16) / 8,
        "fixed width": _fixed_width,
        "log grid, zstandard": lambda row: zstandard(row.on_log_grid),
        "log grid, zstandard trained": lambda row: on_log_grid(row.on_log_grid),
        "zstandard": lambda row: zstandard(row.planes),
        "zstandard trained": lambda row: on_steps(row.planes),
        "Elias gamma": lambda row: (_exp_golomb(row.gaps, 0) + _exp_golomb(row.numbers - 1, 0)) / 8,
        "Rice": lambda row: (_rice(row.gaps) + _rice(row.numbers - 1)) / 8,
    }
    coder = RangeCoder([(row.gaps, row.numbers - 1) for row in training])
    found["range coder, ideal"] = lambda row: coder.ideal_bytes((row.gaps, row.numbers - 1))
    if has_range_coder():
        found["range coder, constriction"] = lambda row: coder((row.gaps, row.numbers - 1))
    found["exp-Golomb (sent)"] = _sent
    return found


def floor_bytes(rows: Sequence[Row]) -> float:
    """Mean entropy in bytes of the content of a row.

    Ids: log2 C(V, n), or the entropy of the gaps between them if that is less. Numbers: their
    entropy. Both are of order 0 over all rows of the cell; the histograms (`_bins`) are free, and
    fitted to the very rows they measure. Beside them the entropies of n and of the step, and log2 V
    for the draw y*, of which the device knows nothing else. A row on one id holds that id alone.
    """
    by_count = sum(_log2_choices(row.num_ids, row.num_kept) for row in rows)
    by_gap = _entropy_bits(np.concatenate([row.gaps for row in rows]) + 1)
    bits = min(by_count, by_gap) + _entropy_bits(np.array([row.num_kept for row in rows]))
    if several := [row for row in rows if not row.is_one_hot]:
        bits += _entropy_bits(np.concatenate([row.numbers for row in several]))
        bits += _entropy_bits(np.array([row.exponent for row in several]))
        bits += len(several) * math.log2(several[0].num_ids)
    return bits / 8 / len(rows)


def sent_bytes(row: Row) -> float:
    """All that the scheme sends: the packed row, the step and the draw y* (longest varint)."""
    return _sent(row) + (0 if row.is_one_hot else 1 + _draw_bytes(row))


def _draw_bytes(row: Row) -> int:
    """Of the largest id as a varint, and the bit that tells a row on one id."""
    return math.ceil((row.id_bits + 1) / 7)


def _sent(row: Row) -> float:
    if row.is_one_hot:
        return float(_draw_bytes(row))
    out = Writer()
    ids = np.cumsum(row.gaps + 1) - 1
    write_row(out, ids, row.numbers)
    data = out.getvalue()
    got_ids, got_numbers = read_row(Reader(data), row.num_ids, int(row.numbers.max()))
    assert (got_ids == ids).all()
    assert (got_numbers == row.numbers).all()
    return float(len(data))


def byte_planes(gaps: NDArray[np.int64], numbers: NDArray[np.int64]) -> bytes:
    """Gaps, then numbers, each with its low bytes before its high bytes."""
    parts = [
        column.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes() for column in (gaps, numbers)
    ]
    return b"".join(parts)


def _fixed_width(row: Row) -> float:
    width = int(row.numbers.max()).bit_length()
    return row.num_kept * (row.id_bits + width) / 8


def _exp_golomb(values: NDArray[np.int64], order: int) -> float:
    lengths = np.frexp((values >> order) + 1)[1] - 1
    return float((2 * lengths + 1 + order).sum())


def _rice(values: NDArray[np.int64]) -> float:
    return float(min((values >> r).sum() + (r + 1) * len(values) for r in range(24)))


def _entropy_bits(values: NDArray[np.int64]) -> float:
    """Bits of all values ≥ 1 under their own histogram."""
    bins, bits_inside = _bins(values)
    counts = np.unique(bins, return_counts=True)[1]
    return float(bits_inside.sum()) - float((counts * np.log2(counts / counts.sum())).sum())


def _bins(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bin of each value, and log2 of the bin's width: one value each up to 16, then 8 an octave.

    A bin for every value would find next to no entropy in large values, of which none comes twice.
    """
    bits_inside = np.maximum(0, np.frexp(values)[1].astype(np.int64) - 4)
    return values >> bits_inside | bits_inside << 8, bits_inside


def _log2_choices(n: int, k: int) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways / math.log(2)
