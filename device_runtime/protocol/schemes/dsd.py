"""`dsd`: the whole drafting row goes up (Zhao et al. 2024, as Ning et al. 2025 tell it, Algorithm 1).

Up, per token: id + the row q̂ at 16 bits an id of the vocabulary. Down: one id. q̂ is q rounded to
integers (`weights.py`) and normalised; the draft is sampled from it. Law: exact (`known_draft.py`).
The ratio of the test is printed upside down there (q/p); here it is p/q̂.
"""

from __future__ import annotations

import numpy as np

from device_runtime.protocol.law import Law
from device_runtime.protocol.messages.fields import MAX_GAMMA, MAX_MESSAGE_BYTES
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.schemes.known_draft import IntegerLaw
from device_runtime.protocol.schemes.weights import (
    WEIGHT_BITS,
    from_indices,
    to_indices,
    to_weights,
)
from device_runtime.protocol.wire import BitReader, BitWriter, malformed

_INDEX = np.dtype(">u2")
_BESIDE_BYTES = 1 << 16
"""Room for all that is in a message beside its block."""


class WholeRow:
    """One weight for every id."""

    def rounded(self, q: Law) -> IntegerLaw:
        ids = q.support()
        weights = to_weights(q.prob(ids))
        kept = np.flatnonzero(weights)
        return IntegerLaw(ids[kept], weights[kept])

    def max_gamma(self, vocab: Vocabulary) -> int:
        room_bits = 8 * (MAX_MESSAGE_BYTES - _BESIDE_BYTES)
        return min(MAX_GAMMA, room_bits // (vocab.id_bits + WEIGHT_BITS * vocab.num_ids))

    def write(self, bits: BitWriter, drafting: IntegerLaw, vocab: Vocabulary) -> None:
        row = np.zeros(vocab.num_ids, _INDEX)
        row[drafting.ids] = to_indices(drafting.weights)
        bits.put(int.from_bytes(row.tobytes(), "big"), WEIGHT_BITS * vocab.num_ids)

    def read(self, bits: BitReader, vocab: Vocabulary) -> IntegerLaw:
        raw = bits.take(WEIGHT_BITS * vocab.num_ids).to_bytes(
            _INDEX.itemsize * vocab.num_ids, "big"
        )
        weights = from_indices(np.frombuffer(raw, _INDEX).astype(np.int64))
        ids = np.flatnonzero(weights)
        if not ids.size:
            raise malformed("a row is zero everywhere")
        return IntegerLaw(ids, weights[ids])
