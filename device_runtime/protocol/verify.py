"""The edge's judgement of a block: one loop for every scheme.

Drafted tokens stand up to the first one the scheme rejects. If all stand, the edge adds the bonus:
one token from the row after the block. Judging stops at an end token, without a bonus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from device_runtime.protocol.law import Law
from device_runtime.protocol.randomness import Streams, edge_streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme

LawAt = Callable[[int], Law]
"""Row index i → the law of the token after the first i drafted ones."""
StreamsAt = Callable[[int, int, int, int], Streams]
"""(seed, epoch, round number, position) → the edge's coins there."""


class RoundKey(NamedTuple):
    """What keys the edge's coins beside the position."""

    seed: int
    epoch: int
    round_number: int


class Judgement(NamedTuple):
    """num_accepted drafted tokens stand; then exactly one of: next token, rejection, nothing."""

    num_accepted: int
    next_token: int | None = None
    rejection: Any = None


def judge_block(
    scheme: Scheme,
    law_at: LawAt,
    block: Sequence[Drafted],
    base: int,
    key: RoundKey,
    ask: Ask,
    end_ids: frozenset[int],
    bonus: bool = True,
    streams_at: StreamsAt = edge_streams,
) -> Judgement:
    """Judge `block`, whose first token stands at absolute position `base`."""
    for i, drafted in enumerate(block):
        p = law_at(i)
        place, streams = _at(key, base + i, streams_at)
        if not scheme.accepts(p, drafted, place, streams):
            return Judgement(i, rejection=scheme.reject(p, drafted, place, streams, ask))
        if drafted.token_id in end_ids:
            return Judgement(i + 1)
    if not bonus:
        return Judgement(len(block))
    place, streams = _at(key, base + len(block), streams_at)
    return Judgement(len(block), scheme.next_token(law_at(len(block)), place, streams))


def reject_again(
    scheme: Scheme,
    p: Law,
    position: int,
    key: RoundKey,
    ask: Ask,
    streams_at: StreamsAt = edge_streams,
) -> Any:
    """More of what a rejection at `position` sent: the same streams from draw `ask.first` on."""
    place, streams = _at(key, position, streams_at)
    return scheme.reject(p, Drafted(-1), place, streams, ask)


def _at(key: RoundKey, position: int, streams_at: StreamsAt) -> tuple[Place, Streams]:
    streams = streams_at(key.seed, key.epoch, key.round_number, position)
    return Place(key.seed, position), streams
