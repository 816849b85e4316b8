"""`sqs` and `qsv`: a lattice-quantised drafting law goes up (arXiv 2510.09942 and 2507.00605).

Up, per token: id + the number of a law with probabilities b/ℓ: `sqs` (K-SQS) quantises the K most
probable ids of q, `qsv` (Quantize-Sample-and-Verify) all. Down: one id. The draft is sampled after
quantising, so the law is exact (`known_draft.py`). A number of `qsv` takes ⌈log2 C(ℓ + V − 1, ℓ)⌉
bits, as published; one of `sqs` fewer than ⌈log2 C(V, K)⌉ + ⌈log2 C(ℓ + K − 1, K − 1)⌉.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device_runtime.protocol.lattice import LatticeCode, lattice_code, quantise
from device_runtime.protocol.law import Law
from device_runtime.protocol.messages.fields import MAX_GAMMA
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.schemes.known_draft import IntegerLaw
from device_runtime.protocol.schemes.tk_slt import most_probable
from device_runtime.protocol.wire import BitReader, BitWriter, malformed

DEFAULT_RESOLUTION = 240
"""ℓ of the papers' coarser lattice."""
MAX_WHOLE_GAMMA = 16
"""Of `qsv`: reading the number of a flat law takes an edge about 2 ms, and strangers may send them."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """One number for a law of multiples of 1/ℓ."""

    resolution: int
    """ℓ."""
    num_kept: int | None = None
    """Quantise only so many of the most probable ids; None: all."""

    def rounded(self, q: Law) -> IntegerLaw:
        ids = q.support() if self.num_kept is None else most_probable(q, self.num_kept)
        counts = quantise(q.prob(ids), self.resolution)
        kept = np.flatnonzero(counts)
        return IntegerLaw(ids[kept], counts[kept])

    def max_gamma(self, vocab: Vocabulary) -> int:
        return MAX_GAMMA if self.num_kept is not None else MAX_WHOLE_GAMMA

    def write(self, bits: BitWriter, drafting: IntegerLaw, vocab: Vocabulary) -> None:
        code = self._code(vocab)
        bits.put(code.number(drafting.ids, drafting.weights), code.num_bits)

    def read(self, bits: BitReader, vocab: Vocabulary) -> IntegerLaw:
        code = self._code(vocab)
        number = bits.take(code.num_bits)
        if number >= code.num_numbers:
            raise malformed("a lattice number is out of range")
        return IntegerLaw(*code.parts(number))

    def _code(self, vocab: Vocabulary) -> LatticeCode:
        return lattice_code(vocab.num_ids, self.resolution, self.num_kept or self.resolution)
