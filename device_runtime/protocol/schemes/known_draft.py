"""The test of an edge that knows the drafting law, shared by `dsd`, `tk-slt`, `sqs` and `qsv`.

The device turns q into a law q̂ of integer weights and drafts x ~ q̂; the edge reads the same
integers, accepts x iff its own u < p(x)/q̂(x), and draws a replacement from norm(max(0, p − q̂)). What
is tested is what was drawn from, so the law is min(p, q̂) + (p − q̂)₊ = p for any q̂. Truncating and
rounding q cost acceptance only: 1 − D(p, q̂) instead of 1 − D(p, q), at most D(q, q̂) less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.law import ArrayLaw, Ids, Law, prob_of
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import (
    Ask,
    Drafted,
    Place,
    TokenReply,
    Vocabulary,
    draw_from_law,
)
from device_runtime.protocol.wire import BitReader, BitWriter, malformed


@dataclass(frozen=True, slots=True)
class IntegerLaw:
    """A law as ids (n,), ascending, and weights (n,) ≥ 1 with a sum below 2^53.

    Such a sum is exact in float64 in any order, so both ends get the same doubles.
    """

    ids: Ids
    weights: NDArray[np.int64]

    def law(self) -> ArrayLaw:
        """The normalised law."""
        return ArrayLaw(self.ids, self.weights.astype(np.float64))


class DraftCodec(Protocol):
    """How q becomes a law of integers, and that law bits."""

    def rounded(self, q: Law) -> IntegerLaw:
        """The law to draft from instead of q."""
        ...

    def max_gamma(self, vocab: Vocabulary) -> int:
        """As of `Scheme`."""
        ...

    def write(self, bits: BitWriter, drafting: IntegerLaw, vocab: Vocabulary) -> None: ...

    def read(self, bits: BitReader, vocab: Vocabulary) -> IntegerLaw: ...


def residual(p: Law, q: Law) -> Law:
    """norm(max(0, p − q)); p itself where rounding left nothing of it."""
    ids = p.support()
    above_q = np.maximum(0.0, p.prob(ids) - q.prob(ids))
    return ArrayLaw(ids, above_q) if above_q.any() else p


class KnownDraft(TokenReply):
    """Sampled drafts; each goes up with the whole law it was sampled from."""

    lossless = True

    def __init__(self, name: str, code: int, codec: DraftCodec) -> None:
        self.name = name
        self.code = code
        self.codec = codec

    def max_gamma(self, vocab: Vocabulary) -> int:
        return self.codec.max_gamma(vocab)

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        drafting = self.codec.rounded(q)
        return Drafted(int(coins.draw(drafting.law(), 1)[0]), drafting)

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        drafting = drafted.evidence.law()
        chance = min(1.0, prob_of(p, drafted.token_id) / prob_of(drafting, drafted.token_id))
        return bool(streams(Purpose.ACCEPT, 0).flip(np.array([chance]))[0])

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        left = residual(p, drafted.evidence.law())
        return int(streams(Purpose.RESIDUAL, 0).draw(left, 1)[0])

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return draw_from_law(p, streams)

    def write_evidence(self, bits: BitWriter, block: Sequence[Drafted], vocab: Vocabulary) -> None:
        for drafted in block:
            self.codec.write(bits, drafted.evidence, vocab)

    def read_evidence(
        self, bits: BitReader, token_ids: Sequence[int], vocab: Vocabulary
    ) -> tuple[Drafted, ...]:
        block = []
        for token_id in token_ids:
            drafting = self.codec.read(bits, vocab)
            if token_id not in drafting.ids:
                raise malformed("a drafted token has no weight in the law it came with")
            block.append(Drafted(token_id, drafting))
        return tuple(block)
