"""The test with one index, shared by `dssd-packed` and `dssd-thinned`.

G is a grid and p̃ is p rounded down to it. The device holds u ~ U(0, 1), sends u·q(x) rounded up to
G, and the edge accepts iff that index is ≤ the index of p̃(x): exactly the event u·q(x) ≤ p̃(x). So
x stands with chance min(1, p̃(x)/q(x)); q needs no rounding and the edge needs no coin. What
remains to be drawn after a rejection is p − min(q, p̃) = (p̃ − q)₊ + (p − p̃).
"""

from __future__ import annotations

from collections.abc import Sequence

from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import Law, prob_of
from device_runtime.protocol.messages.fields import MAX_GAMMA
from device_runtime.protocol.randomness import Coins, Streams
from device_runtime.protocol.schemes.base import Drafted, Place, Vocabulary, draw_from_law
from device_runtime.protocol.wire import BitReader, BitWriter, malformed


class IndexTest:
    """Sampled drafts judged by one grid index a token."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def max_gamma(self, vocab: Vocabulary) -> int:
        return MAX_GAMMA

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        token_id = int(coins.draw(q, 1)[0])
        return Drafted(token_id, coins.scaled(prob_of(q, token_id), self.grid))

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        return bool(drafted.evidence <= self.grid.floor_of(prob_of(p, drafted.token_id)))

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return draw_from_law(p, streams)

    def write_evidence(self, bits: BitWriter, block: Sequence[Drafted], vocab: Vocabulary) -> None:
        for drafted in block:
            bits.put(drafted.evidence, self.grid.index_bits)

    def read_evidence(
        self, bits: BitReader, token_ids: Sequence[int], vocab: Vocabulary
    ) -> tuple[Drafted, ...]:
        block = []
        index_bits, num_levels = self.grid.index_bits, self.grid.num_levels
        for token_id in token_ids:
            index = bits.take(index_bits)
            # 0 would stand for u·q(x) = 0, which no honest device sends: it passes where p is 0.
            if not 1 <= index < num_levels:
                raise malformed("a grid index is out of range")
            block.append(Drafted(token_id, index))
        return tuple(block)
