"""`dssd-packed`: the row p̃ on a coarse grid, packed, plus one draw from what rounding took away.

Up, per token: id + one index. Down, on a rejection: p̃ (ids and indices) and y* ~ (p − p̃)/M2,
where M2 = 1 − Σ p̃. The device takes y* with chance M2/(M1 + M2), M1 = Σ (p̃ − q)₊, else draws from
(p̃ − q)₊. The two parts sum to p − min(q, p̃), which is what the index test left: exact for any
grid. How far the grid reaches down only trades bytes against acceptance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from device_runtime.protocol.grid import Grid, Indices
from device_runtime.protocol.law import ArrayLaw, Ids, Law
from device_runtime.protocol.packing import read_row, write_row
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.wire import Reader, Writer


@dataclass(frozen=True, slots=True)
class PackedRow:
    """p̃ as ids and indices ≥ 1, and a draw from p − p̃."""

    ids: Ids
    indices: Indices
    leftover_id: int

    @classmethod
    def of(cls, p: Law, grid: Grid, streams: Streams) -> PackedRow:
        """Edge: round p down and draw from the rest with its own coin."""
        ids = p.support()
        probs = p.prob(ids)
        indices = grid.floor(probs)
        leftover = probs - grid.level(indices)
        # With nothing left over the device never takes this draw; any id will do.
        rest = ArrayLaw(ids, leftover) if leftover.any() else p
        leftover_id = int(streams(Purpose.RESIDUAL, 0).draw(rest, 1)[0])
        kept = indices > 0
        return cls(ids[kept], indices[kept], leftover_id)

    def settle(self, q: Law, grid: Grid, coins: Coins) -> int:
        """Device: one token from p − min(q, p̃), normalised."""
        rounded = grid.level(self.indices)
        above_q = np.maximum(0.0, rounded - q.prob(self.ids))
        mass_above_q = float(above_q.sum())
        mass_leftover = max(0.0, 1.0 - float(rounded.sum()))
        total = mass_above_q + mass_leftover
        if total == 0.0 or coins.flip(np.array([mass_leftover / total]))[0]:
            return self.leftover_id
        return int(coins.draw(ArrayLaw(self.ids, above_q), 1)[0])

    def write(self, out: Writer) -> None:
        out.varint(self.leftover_id)
        write_row(out, self.ids, self.indices)

    @classmethod
    def read(cls, data: Reader, grid: Grid, vocab: Vocabulary) -> PackedRow:
        leftover_id = data.varint(vocab.num_ids - 1)
        ids, indices = read_row(data, vocab.num_ids, grid.num_levels)
        return cls(ids, indices, leftover_id)


PACKED_GRID = Grid(mantissa_bits=5, num_octaves=20)
"""Coarser and shorter than the protocol's grid. On the demo pair at temperature 1 it costs 0.003 of
acceptance; four octaves fewer would cost 0.012, eleven more would double the bytes."""


class DssdPacked(IndexTest):
    """Lossless split verification with a compressed row."""

    name = "dssd-packed"
    code = 5
    lossless = True

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return PackedRow.of(p, self.grid, streams)

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        row: PackedRow = rejection
        return row.settle(q, self.grid, coins)

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        rejection.write(out)

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        return PackedRow.read(data, self.grid, vocab)
