"""`dssd-packed`: the row p̃, rounded as coarsely as acceptance allows, packed, plus one draw.

Up, per token: id + one index of a fine grid. The edge rounds p down to whole multiples of a step
2^-e, and those down to the grid: that is p̃. It picks the largest step that takes about `ROUNDED_OFF`
of the mass of p: acceptance falls by at most that, for every q. Down, on a rejection: e, p̃ as ids
and multiples, and y* ~ (p − p̃)/M2, where M2 = 1 − Σ p̃. The device takes y* with chance
M2/(M1 + M2), M1 = Σ (p̃ − q)₊, else draws from (p̃ − q)₊. The two parts sum to p − min(q, p̃), which
is what the index test left. p̃ may be any law on the grid that p alone decides: so the step may
differ from row to row, and the device need not know it when it drafts. Where p is all on one id, that
id alone is sent: it is what replaces any rejected draft.

Steps are powers of two, so dividing and multiplying by them is exact and equal on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import ArrayLaw, Floats, Ids, Law, prob_of
from device_runtime.protocol.packing import Numbers, read_row, write_row
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.wire import Reader, Writer, malformed

ROUNDED_OFF = 0.005
"""Mass of p that rounding down may take, as estimated; acceptance falls by half to all of it."""
PACKED_GRID = Grid(mantissa_bits=9, num_octaves=31)
"""Fine, because its rounding takes from the same mass: 14-bit indices."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How p becomes p̃: numbers of a row ↔ levels of the grid."""

    grid: Grid
    exponent: int
    """Steps of 2^-exponent; with 0 the numbers are the grid's own indices."""

    @property
    def max_number(self) -> int:
        return 1 << self.exponent if self.exponent else self.grid.num_levels - 1

    def number(self, probs: Floats) -> Numbers:
        """Numbers (n,) ≥ 0 of probabilities (n,), rounded down."""
        if not self.exponent:
            return self.grid.floor(probs)
        return np.ldexp(probs, self.exponent).astype(np.int64)

    def level(self, numbers: Numbers) -> Floats:
        """p̃ (n,) of numbers (n,): levels of the grid."""
        if not self.exponent:
            return self.grid.level(numbers)
        multiples = np.ldexp(numbers.astype(np.float64), -self.exponent)
        return self.grid.level(self.grid.floor(multiples))


@dataclass(frozen=True, slots=True)
class PackedRow:
    """p̃ as ids and numbers ≥ 1, and a draw from p − p̃."""

    ids: Ids
    numbers: Numbers
    exponent: int
    leftover_id: int

    @classmethod
    def one_hot(cls, token_id: int, grid: Grid) -> PackedRow:
        """All mass on one id, and no draw that would ever be taken."""
        rounding = Rounding(grid, 0)
        ids, numbers = np.array([token_id], np.int64), np.array([rounding.max_number], np.int64)
        return cls(ids, numbers, rounding.exponent, token_id)

    @classmethod
    def of(cls, p: Law, rounding: Rounding, streams: Streams) -> PackedRow:
        """Edge: round p down and draw from the rest with its own coin."""
        ids = p.support()
        if len(ids) == 1:
            return cls.one_hot(int(ids[0]), rounding.grid)
        probs = p.prob(ids)
        numbers = rounding.number(probs)
        leftover = probs - rounding.level(numbers)
        # With nothing left over the device never takes this draw; any id will do.
        rest = ArrayLaw(ids, leftover) if leftover.any() else p
        leftover_id = int(streams(Purpose.RESIDUAL, 0).draw(rest, 1)[0])
        kept = numbers > 0
        return cls(ids[kept], numbers[kept], rounding.exponent, leftover_id)

    def settle(self, q: Law, grid: Grid, coins: Coins) -> int:
        """Device: one token from p − min(q, p̃), normalised."""
        rounded = Rounding(grid, self.exponent).level(self.numbers)
        above_q = np.maximum(0.0, rounded - q.prob(self.ids))
        mass_above_q = float(above_q.sum())
        mass_leftover = max(0.0, 1.0 - float(rounded.sum()))
        total = mass_above_q + mass_leftover
        if total == 0.0 or coins.flip(np.array([mass_leftover / total]))[0]:
            return self.leftover_id
        return int(coins.draw(ArrayLaw(self.ids, above_q), 1)[0])

    def write(self, out: Writer, grid: Grid) -> None:
        """The lowest bit of the first number tells whether anything follows it."""
        if self.is_one_hot(grid):
            out.varint(int(self.ids[0]) << 1 | 1)
            return
        out.varint(self.leftover_id << 1)
        out.u8(self.exponent)
        write_row(out, self.ids, self.numbers)

    def is_one_hot(self, grid: Grid) -> bool:
        """Whether p̃ is all on one id; its probability is 1 even after rounding down."""
        max_number = Rounding(grid, self.exponent).max_number
        return len(self.ids) == 1 and int(self.numbers[0]) == max_number

    @classmethod
    def read(cls, data: Reader, grid: Grid, vocab: Vocabulary) -> PackedRow:
        first = data.varint((vocab.num_ids - 1) << 1 | 1)
        leftover_id = first >> 1
        if first & 1:
            return cls.one_hot(leftover_id, grid)
        exponent = data.u8()
        if exponent > grid.num_octaves:
            raise malformed(f"a row has steps of 2^-{exponent}, below the grid")
        max_number = Rounding(grid, exponent).max_number
        ids, numbers = read_row(data, vocab.num_ids, max_number)
        return cls(ids, numbers, exponent, leftover_id)


class DssdPacked(IndexTest):
    """Lossless split verification with a compressed row."""

    name = "dssd-packed"
    code = 5
    lossless = True

    def __init__(self, grid: Grid, rounded_off: float = ROUNDED_OFF) -> None:
        super().__init__(grid)
        self._rounded_off = rounded_off
        # Even one id alone is rounded by half a step on average.
        finest = math.ceil(-math.log2(2 * rounded_off))
        self._min_exponent = min(max(1, finest), grid.num_octaves)

    def rounding(self, p: Law) -> Rounding:
        """The coarsest rounding that the budget allows.

        A step takes all of an id below it and about half a step of every other id. Ids are sorted
        into octaves, so the sums for all steps cost one pass.
        """
        probs = p.prob(p.support())
        num_octaves = self.grid.num_octaves
        octaves = np.clip(1 - np.frexp(probs)[1], 0, num_octaves)  # p in [2^-octave, 2^(1-octave))
        masses = np.bincount(octaves, probs, num_octaves + 1)
        counts = np.bincount(octaves, minlength=num_octaves + 1)
        below = np.cumsum(masses[::-1])[::-1]
        exponents = np.arange(num_octaves)
        lost = below[1:] + np.ldexp(np.cumsum(counts)[:-1] / 2.0, -exponents)
        allowed = np.flatnonzero(lost <= self._rounded_off)
        exponent = int(exponents[allowed[0]]) if len(allowed) else num_octaves
        return Rounding(self.grid, max(exponent, self._min_exponent))

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        prob = np.array([prob_of(p, drafted.token_id)])
        if drafted.evidence > self.grid.floor(prob)[0]:
            return False
        # Whatever the step, less than the largest is taken: mostly the row need not be looked at.
        surely = np.maximum(0.0, prob - 2.0**-self._min_exponent)
        if drafted.evidence <= self.grid.floor(surely)[0]:
            return True
        rounding = self.rounding(p)
        return bool(drafted.evidence <= self.grid.floor(rounding.level(rounding.number(prob)))[0])

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return PackedRow.of(p, self.rounding(p), streams)

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        row: PackedRow = rejection
        return row.settle(q, self.grid, coins)

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        rejection.write(out, self.grid)

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        return PackedRow.read(data, self.grid, vocab)
