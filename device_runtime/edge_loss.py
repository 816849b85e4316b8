"""`--on-edge-loss local`: while no edge answers, the SLM goes on alone and a task looks for the edge.

What is written so is marked `Origin.UNVERIFIED` and is not the LLM's. Once an edge answers, it gets
all tokens, takes these for granted and verifies what follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from device_runtime.cancellation import in_thread
from device_runtime.drafter import Drafter
from device_runtime.link import EdgeLink
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.randomness import Coins
from device_runtime.protocol.sampling import to_law
from device_runtime.protocol.schemes.base import Place
from device_runtime.protocol.schemes.coupled import Coupled, coupled_token
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Committed, Counts, Origin

logger = logging.getLogger(__name__)


async def write_until_back(
    link: EdgeLink,
    drafter: Drafter,
    generation: Generation,
    coins: Coins,
    transcript: Transcript,
    counts: Counts,
) -> AsyncGenerator[Piece, None]:
    """The SLM's own tokens until the edge answers again or the answer is over.

    At the end the session holds them, and a `begin_again` tells the edge of them. It names the round
    whose verdict never came again, at later positions. Some of its draws may be those of the lost one,
    of which nothing was seen.
    """
    session, num_ids = link.session, link.session.shared.num_ids
    # The last token runs again: its row may be gone.
    drafter.truncate(min(drafter.num_tokens, len(session.tokens) - 1))
    # The session must not change while the link may be restating it, so the tokens wait here.
    own: list[int] = []
    search = asyncio.create_task(_search(link))
    try:
        while transcript.finish_reason is None and not _found(search):
            text = [*session.tokens.ids, *own]
            token_id = await in_thread(
                own_token, drafter, text, session.boundary, generation, num_ids, coins
            )
            own.append(token_id)
            counts.unverified += 1
            pieces = transcript.add([Committed(token_id, Origin.UNVERIFIED)])
            if len(text) + 1 >= session.facts.context_len:
                pieces += transcript.out_of_context()
            for piece in pieces:
                yield piece
    finally:
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
        session.append(own)


def own_token(
    drafter: Drafter,
    text: Sequence[int],
    boundary: int,
    generation: Generation,
    num_ids: int,
    coins: Coins,
) -> int:
    """One token by the SLM alone after `text`, whose tokens from `boundary` on count as generated.

    The drafter must hold a prefix of the text that is shorter than it.
    """
    logits = drafter.append(np.array(text[drafter.num_tokens :], np.int64))
    q = to_law(logits, generation.sampling, text[boundary:], num_ids)
    if isinstance(generation.scheme, Coupled):
        return coupled_token(q, Place(generation.seed, len(text)))
    return int(coins.draw(q, 1)[0])


def _found(search: asyncio.Task[None]) -> bool:
    """Whether the edge is back; a search that failed for good leaves the SLM alone to the end."""
    return search.done() and not search.cancelled() and search.exception() is None


async def _search(link: EdgeLink) -> None:
    """Connect again, however long it takes."""
    try:
        await link.reopen()
    except TandemError as error:
        logger.warning("the device goes on alone to the end: %s", error)
        raise
