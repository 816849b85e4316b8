"""`dssd`: split verification as published (Ning et al. 2025, arXiv 2507.12000, Algorithm 2).

Up, per token: id + q(x) as a 32-bit float. Down, on a rejection: the whole row p as floats of 16 or
32 bits, from which the device draws norm(max(0, p − q)). The test is the right way up: u·q < p (the
paper prints q/p). Law: exact up to two roundings, of the row and of q(x). With p̂ the row and q̂(x) the
probability as sent, x stands with chance q(x)·min(1, p(x)/q̂(x)), off by at most 2^-24 of p(x), and the
replacement follows (p̂ − q)₊ for (p − q)₊. `lossless` here means: exact up to these, which
docs/schemes.md states and measures; nothing is truncated and no draft is kept unjudged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from device_runtime.protocol.law import ArrayLaw, Floats, Law, prob_of
from device_runtime.protocol.messages.fields import MAX_GAMMA
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary, draw_from_law
from device_runtime.protocol.wire import BitReader, BitWriter, Reader, Writer, malformed


def residual(row: Floats, q: Law) -> ArrayLaw:
    """norm(max(0, p − q)) of a row p (vocab,); p itself where rounding left nothing of it."""
    left = row.copy()
    ids = q.support()
    ids = ids[ids < len(row)]
    left[ids] = np.maximum(0.0, left[ids] - q.prob(ids))
    return ArrayLaw.dense(left if left.any() else row)


class Dssd:
    """The published scheme, the baseline of the downlink."""

    lossless = True

    def __init__(self, name: str, code: int, row_dtype: str) -> None:
        self.name = name
        self.code = code
        self._dtype = np.dtype(row_dtype)

    def max_gamma(self, vocab: Vocabulary) -> int:
        return MAX_GAMMA

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        token_id = int(coins.draw(q, 1)[0])
        return Drafted(token_id, float(np.float32(prob_of(q, token_id))))

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        chance = min(1.0, prob_of(p, drafted.token_id) / drafted.evidence)
        return bool(streams(Purpose.ACCEPT, 0).flip(np.array([chance]))[0])

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return p

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        return int(coins.draw(residual(rejection, q), 1)[0])

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return draw_from_law(p, streams)

    def write_evidence(self, bits: BitWriter, block: Sequence[Drafted], vocab: Vocabulary) -> None:
        for drafted in block:
            bits.put(struct.unpack("<I", struct.pack("<f", drafted.evidence))[0], 32)

    def read_evidence(
        self, bits: BitReader, token_ids: Sequence[int], vocab: Vocabulary
    ) -> tuple[Drafted, ...]:
        block = []
        for token_id in token_ids:
            prob = struct.unpack("<f", struct.pack("<I", bits.take(32)))[0]
            if not 0 < prob <= 1:
                raise malformed("a drafted token's probability is not in (0, 1]")
            block.append(Drafted(token_id, prob))
        return tuple(block)

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        row = np.zeros(vocab.num_ids, self._dtype)
        ids = rejection.support()
        row[ids] = rejection.prob(ids)
        out.rest(row.tobytes())

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        raw = data.rest()
        if len(raw) != vocab.num_ids * self._dtype.itemsize:
            raise malformed(f"a row has {len(raw)} bytes for {vocab.num_ids} probabilities")
        row = np.frombuffer(raw, self._dtype)
        if not (np.isfinite(row).all() and (row >= 0).all() and row.any()):
            raise malformed("a row is no probability distribution")
        return row.astype(np.float64)
