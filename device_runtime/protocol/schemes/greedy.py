"""`greedy-draft`: the most probable token is proposed; it stands iff the edge drew the same.

Up: ids. Down: one id. Law: exact, because every committed token is the edge's own draw from p.
Acceptance: p(argmax q). What servers with a draft model do today.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from device_runtime.protocol.law import Law
from device_runtime.protocol.randomness import Coins, Streams
from device_runtime.protocol.schemes.base import (
    Ask,
    Drafted,
    NoEvidence,
    Place,
    TokenReply,
    draw_from_law,
)


class GreedyDraft(NoEvidence, TokenReply):
    """Argmax drafts, match sampling."""

    name = "greedy-draft"
    code = 1
    lossless = True

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        ids = q.support()
        return Drafted(int(ids[np.argmax(q.prob(ids))]))

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        return draw_from_law(p, streams) == drafted.token_id

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        # The stream is keyed, so this is the very draw that `accepts` compared.
        return draw_from_law(p, streams)

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        return draw_from_law(p, streams)
