"""`dssd-thinned`: k draws from p; the device thins them to the residual. Tens of bytes.

Up, per token: id + one index. Down, on a rejection: k draws y ~ p. The edge flips the coin that it
alone can: with chance (p − p̃)/p a draw is *unconditional*, else it carries the index of p̃(y). The
device keeps an unconditional draw always, another with chance max(0, 1 − q(y)/p̃(y)): a kept draw
follows (p − p̃) + (p̃ − q)₊, the residual of the index test. The copies travel as a sorted
multiset, so the device takes a uniformly random one of those it kept ("the first in id order" would
favour low ids). If it kept none, it asks for more draws of the same stream; after a few tries for
the whole row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import Law
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.schemes.packed import PackedRow, Rounding
from device_runtime.protocol.wire import BitReader, BitWriter, Reader, Writer, malformed

MAX_DRAWS = 1024
"""Most draws an edge sends at once."""

_TAG_DRAWS = 0
_TAG_ROW = 1


class Draws(NamedTuple):
    """All draws of one id: the index of p̃(id), how many they are, how many of them unconditional."""

    token_id: int
    prob_index: int
    num_draws: int
    num_unconditional: int


class DssdThinned(IndexTest):
    """Lossless split verification with draws instead of a row: the default."""

    name = "dssd-thinned"
    code = 6
    lossless = True

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        if ask.whole_row:
            return PackedRow.of(p, Rounding(self.grid, 0), streams)
        count = min(max(1, ask.num_draws), MAX_DRAWS)
        coins = streams(Purpose.DRAW, 2 * ask.first)  # two values a draw
        drawn = coins.draw(p, count)
        probs = p.prob(drawn)
        indices, levels = self.grid.rounded(probs)
        unconditional = coins.flip(1.0 - levels / probs)
        columns = (drawn.tolist(), indices.tolist(), unconditional.tolist())
        found: dict[int, list[int]] = {}  # plain integers: faster than numpy for a few dozen
        for token_id, index, is_unconditional in zip(*columns, strict=True):
            counts = found.setdefault(token_id, [index, 0, 0])
            counts[1] += 1
            counts[2] += is_unconditional
        return tuple(Draws(token_id, *found[token_id]) for token_id in sorted(found))

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        if isinstance(rejection, PackedRow):
            return rejection.settle(q, self.grid, coins)
        kept = self._thin(q, rejection, coins)
        return kept[coins.choose(len(kept))] if kept else None

    def _thin(self, q: Law, rejection: Sequence[Draws], coins: Coins) -> list[int]:
        """The ids of the draws that pass, each as often as it passed."""
        ids = np.array([draws.token_id for draws in rejection], np.int64)
        rounded = self.grid.level(np.array([draws.prob_index for draws in rejection]))
        probs = np.divide(q.prob(ids), rounded, out=np.ones(len(ids)), where=rounded > 0)
        num_coins = np.array([draws.num_draws - draws.num_unconditional for draws in rejection])
        passed = coins.flip(np.repeat(np.maximum(0.0, 1.0 - probs), num_coins))
        kept = [draws.token_id for draws in rejection for _ in range(draws.num_unconditional)]
        return [*kept, *np.repeat(ids, num_coins)[passed].tolist()]

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        if isinstance(rejection, PackedRow):
            out.u8(_TAG_ROW)
            rejection.write(out, self.grid)
            return
        out.u8(_TAG_DRAWS)
        out.varint(len(rejection))
        out.rest(write_draws(rejection, self.grid))

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        tag = data.u8()
        if tag == _TAG_ROW:
            return PackedRow.read(data, self.grid, vocab)
        if tag != _TAG_DRAWS:
            raise malformed("a rejection is neither draws nor a row")
        count = data.varint(MAX_DRAWS)
        if count == 0:
            raise malformed("a rejection holds no draw")
        return read_draws(data.rest(), count, self.grid, vocab)


def write_draws(rejection: Sequence[Draws], grid: Grid) -> bytes:
    """Gaps between ids in a Golomb code whose parameter fits best, then index and counts."""
    ids = [draws.token_id for draws in rejection]
    gaps = [token_id - before - 1 for before, token_id in zip([-1, *ids], ids, strict=False)]
    low_bits, index_bits = best_low_bits(gaps), grid.index_bits
    low_mask = (1 << low_bits) - 1
    bits = BitWriter()
    bits.put(low_bits, 5)
    for gap, draws in zip(gaps, rejection, strict=True):
        bits.put_gamma(gap >> low_bits)
        bits.put((gap & low_mask) << index_bits | draws.prob_index, low_bits + index_bits)
        bits.put_gamma(draws.num_draws - 1)
        if draws.prob_index:
            bits.put_gamma(draws.num_unconditional)
    return bits.getvalue()


def read_draws(data: bytes, count: int, grid: Grid, vocab: Vocabulary) -> tuple[Draws, ...]:
    """What `write_draws` wrote; RemoteError on anything else."""
    bits = BitReader(data)
    low_bits = bits.take(5)
    token_id = -1
    rejection = []
    for _ in range(count):
        gap = bits.take_gamma() << low_bits | bits.take(low_bits)
        token_id += gap + 1
        index = bits.take(grid.index_bits)
        num_draws = bits.take_gamma() + 1
        # Below the grid p̃ is 0: every draw of such an id is unconditional.
        num_unconditional = bits.take_gamma() if index else num_draws
        if token_id >= vocab.num_ids or index >= grid.num_levels:
            raise malformed("a draw holds an id or an index out of range")
        if num_draws > MAX_DRAWS or num_unconditional > num_draws:
            raise malformed("a draw's counts contradict each other")
        rejection.append(Draws(token_id, index, num_draws, num_unconditional))
    bits.finish()
    return tuple(rejection)


def best_low_bits(gaps: Sequence[int]) -> int:
    """The Golomb parameter with the fewest bits for these gaps, looked for around their mean."""

    def num_bits(low_bits: int) -> int:
        heads = sum(map(int.bit_length, [(gap >> low_bits) + 1 for gap in gaps]))
        return 2 * heads + len(gaps) * low_bits

    middle = (sum(gaps) // max(1, len(gaps))).bit_length()
    return min(range(max(0, middle - 3), middle + 2), key=num_bits)
