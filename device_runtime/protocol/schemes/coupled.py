"""`coupled`: both ends take argmax(log law + the same Gumbel noise).

Up: ids. Down: one id. Law: exact, since argmax(log p + Gumbel) follows p; and, because the noise
depends only on (seed, position, id), the text is the one the LLM alone gives with that seed,
whatever was drafted. Acceptance: Σ_i 1 / Σ_j max(p_j/p_i, q_j/q_i) ≥ (1 − D)/(1 + D).
Source: Daliri, Musco and Suresh 2024, arXiv 2408.07978.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from device_runtime.protocol.law import Law
from device_runtime.protocol.randomness import Coins, Streams, shared_gumbel
from device_runtime.protocol.schemes.base import Ask, Drafted, NoEvidence, Place, TokenReply


def coupled_token(law: Law, place: Place) -> int:
    """Argmax of log law + shared noise over the support, the lowest id among equals."""
    find = getattr(law, "coupled", None)  # a law on a GPU looks there: one id crosses, not a row
    if find is not None:
        return int(find(place.seed, place.position))
    ids = law.support()
    noise = shared_gumbel(place.seed, place.position, ids)
    return int(ids[np.argmax(np.log(law.prob(ids)) + noise)])


class Coupled(NoEvidence, TokenReply):
    """Shared-seed Gumbel coupling."""

    name = "coupled"
    code = 2
    lossless = True

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        return Drafted(coupled_token(q, place))

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        return coupled_token(p, place) == drafted.token_id

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return coupled_token(p, place)

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return coupled_token(p, place)
