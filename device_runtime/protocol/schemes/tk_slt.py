"""`tk-slt`: a truncated drafting law goes up (Zheng and Yang 2025, arXiv 2509.04576 and 2512.16273).

Up, per token: id + the ids and 16-bit probabilities of what was kept of q: the K most probable ids
(`tk-slt`) or the fewest that hold a share of the mass (`tk-slt-nucleus`). Down: one id. The draft is
sampled after truncation and rounding, so the law is exact (`known_draft.py`). The papers count
K · b_prob bits a token; the ids cost ⌈log2 V⌉ each on top, and the number of pairs is sent, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device_runtime.protocol.bit_arrays import put_array, take_array
from device_runtime.protocol.law import Ids, Law
from device_runtime.protocol.messages.fields import MAX_GAMMA
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.schemes.known_draft import IntegerLaw
from device_runtime.protocol.schemes.weights import (
    WEIGHT_BITS,
    from_indices,
    to_indices,
    to_weights,
)
from device_runtime.protocol.truncation import heaviest, nucleus
from device_runtime.protocol.wire import BitReader, BitWriter, malformed

DEFAULT_NUM_KEPT = 32


@dataclass(frozen=True, slots=True)
class Pairs:
    """(id, probability) pairs of the most probable ids."""

    num_kept: int
    """Keep at most so many ids."""
    share: float = 1.0
    """Keep the fewest ids that hold this share of the mass."""

    def rounded(self, q: Law) -> IntegerLaw:
        ids = most_probable(q, self.num_kept)
        probs = q.prob(ids)
        if self.share < 1:
            kept = nucleus(probs, self.share / max(self.share, float(probs.sum())))
            ids, probs = ids[kept], probs[kept]
        weights = to_weights(probs)
        kept = np.flatnonzero(weights)
        return IntegerLaw(ids[kept], weights[kept])

    def max_gamma(self, vocab: Vocabulary) -> int:
        return MAX_GAMMA

    def write(self, bits: BitWriter, drafting: IntegerLaw, vocab: Vocabulary) -> None:
        bits.put_gamma(len(drafting.ids) - 1)
        put_array(bits, drafting.ids, vocab.id_bits)
        put_array(bits, to_indices(drafting.weights), WEIGHT_BITS)

    def read(self, bits: BitReader, vocab: Vocabulary) -> IntegerLaw:
        count = bits.take_gamma() + 1
        if count > min(self.num_kept, vocab.num_ids):
            raise malformed(f"{count} pairs, at most {self.num_kept} are allowed")
        ids = take_array(bits, count, vocab.id_bits)
        weights = from_indices(take_array(bits, count, WEIGHT_BITS))
        if ids[-1] >= vocab.num_ids or (np.diff(ids) <= 0).any() or not weights.all():
            raise malformed("pairs are out of order or range, or one has no weight")
        return IntegerLaw(ids, weights)


def most_probable(q: Law, count: int) -> Ids:
    """The `count` most probable ids, ascending, the lower id among equals; all if there are fewer."""
    ids = q.support()
    return ids if len(ids) <= count else ids[heaviest(q.prob(ids), count)]
