"""Speculation wholly on the edge: both laws are there, so nothing of q is rounded or sent.

A sampled draft x ~ q stands with chance min(1, p(x)/q(x)); what replaces it follows norm(max(0, p −
q)) (Leviathan et al. 2023, Chen et al. 2023). Schemes whose edge draws its own token and compares
(`coupled`, `greedy-draft`) are used as they are: their text is the one without drafts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from device_runtime.protocol.law import Law, prob_of
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import (
    Ask,
    Drafted,
    NoEvidence,
    Place,
    Scheme,
    TokenReply,
    draw_from_law,
)
from device_runtime.protocol.schemes.coupled import Coupled
from device_runtime.protocol.schemes.greedy import GreedyDraft
from device_runtime.protocol.schemes.known_draft import residual


class OnEdge(NoEvidence, TokenReply):
    """The textbook's speculative sampling; a drafted token's evidence is its law itself."""

    name = "on-edge"
    code = -1
    """It never crosses the wire."""
    lossless = True

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        return Drafted(int(coins.draw(q, 1)[0]), q)

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        token_id, q = drafted.token_id, drafted.evidence
        chance = min(1.0, prob_of(p, token_id) / prob_of(q, token_id))
        return bool(streams(Purpose.ACCEPT, 0).flip(np.array([chance]))[0])

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        left = residual(p, drafted.evidence)
        return int(streams(Purpose.RESIDUAL, 0).draw(left, 1)[0])

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return draw_from_law(p, streams)


_ON_EDGE = OnEdge()


def scheme_on_edge(scheme: Scheme) -> Scheme:
    """What judges the edge's own drafts in a generation of this scheme."""
    return scheme if isinstance(scheme, (Coupled, GreedyDraft)) else _ON_EDGE
