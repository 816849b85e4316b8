"""Ways to write an answer: device and edge together, the edge alone, the device alone, lossy.

Each yields pieces of text as they become certain, into a `Transcript`. Drafting runs in a thread,
so that the connection stays alive while a slow board computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from device_runtime.drafter import Drafter
from device_runtime.link import EdgeLink, EdgeLostError
from device_runtime.lossy import LossyTurn, Policy
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.randomness import Coins
from device_runtime.protocol.sampling import to_law
from device_runtime.protocol.schemes.base import Place
from device_runtime.protocol.schemes.coupled import Coupled, coupled_token
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Committed, Counts, Origin, Turn


async def write_split(
    link: EdgeLink,
    drafter: Drafter,
    generation: Generation,
    gamma: int,
    coins: Coins,
    transcript: Transcript,
    counts: Counts,
) -> AsyncIterator[Piece]:
    """Draft on the device, verify on the edge, after the tokens the session holds.

    The first block is drafted while the edge reads the prompt. When the answer is over, both token
    lists and the drafter's cache end where the answer ends.
    """
    session = link.session
    begin = session.begin(generation)
    turn = Turn(session, drafter, generation, coins, counts)
    first = min(gamma, transcript.num_left - 1)
    begun, block = await asyncio.gather(link.exchange(begin), asyncio.to_thread(turn.draft, first))
    session.receive_begun(begun)
    data: bytes | None = block
    while True:
        while data is not None:
            step = turn.receive(await link.exchange(data))
            for piece in transcript.add(step.committed):
                yield piece
            data = step.send
        if _full(session) and transcript.finish_reason is None:
            for piece in transcript.out_of_context():
                yield piece
        if transcript.finish_reason is not None:
            break
        data = await asyncio.to_thread(turn.draft, min(gamma, transcript.num_left - 1))
    transcript.logprobs = turn.logprobs
    _cut(session, transcript)
    drafter.truncate(min(drafter.num_tokens, len(session.tokens)))


async def write_lossy(
    link: EdgeLink,
    drafter: Drafter,
    generation: Generation,
    policy: Policy,
    coins: Coins,
    transcript: Transcript,
    counts: Counts,
) -> AsyncIterator[Piece]:
    """A policy on the device decides which tokens reach the edge at all: not the LLM's law."""
    session = link.session
    session.receive_begun(await link.exchange(session.begin(generation)))
    turn = LossyTurn(session, drafter, generation, coins, counts, policy)
    while transcript.finish_reason is None:
        step = await asyncio.to_thread(turn.next)
        pieces = transcript.add(step.committed)
        while step.send is not None:
            step = turn.receive(await link.exchange(step.send))
            pieces += transcript.add(step.committed)
        if _full(session) and transcript.finish_reason is None:
            pieces += transcript.out_of_context()
        for piece in pieces:
            yield piece
    _cut(session, transcript)
    drafter.truncate(min(drafter.num_tokens, len(session.tokens)))


async def write_edge_only(
    link: EdgeLink, generation: Generation, transcript: Transcript
) -> AsyncIterator[Piece]:
    """The LLM alone, streamed: the baseline, and the text that `coupled` reproduces."""
    session = link.session
    session.receive_begun(await link.exchange(session.begin(generation)))
    await link.send(session.stream(transcript.num_left))
    last = False
    while not last:
        try:
            tokens = session.receive_tokens(await link.receive())
        except EdgeLostError:
            await link.reopen()
            if session.facts.resumed:  # the new connection continues no stream
                session.receive_begun(await link.exchange(session.begin_again()))
            await link.send(session.stream(transcript.num_left))
            continue
        last = tokens.last
        committed = (Committed(token_id, Origin.BONUS) for token_id in tokens.ids)
        running = transcript.finish_reason is None
        for piece in transcript.add(committed):
            yield piece
        if running and not last and transcript.finish_reason is not None:
            await link.send(session.cancel())
    if transcript.finish_reason is None:
        for piece in transcript.out_of_context():
            yield piece
    _cut(session, transcript)


async def write_device_only(
    drafter: Drafter,
    prompt_ids: list[int],
    generation: Generation,
    num_ids: int,
    coins: Coins,
    transcript: Transcript,
) -> AsyncIterator[Piece]:
    """The SLM alone: what the device can do without an edge."""
    fresh = prompt_ids
    coupled = isinstance(generation.scheme, Coupled)
    while transcript.finish_reason is None:
        logits = await asyncio.to_thread(drafter.append, np.array(fresh, np.int64))
        q = to_law(logits, generation.sampling, transcript.token_ids, num_ids)
        place = Place(generation.seed, len(prompt_ids) + len(transcript.token_ids))
        token_id = coupled_token(q, place) if coupled else int(coins.draw(q, 1)[0])
        for piece in transcript.add([Committed(token_id, Origin.UNVERIFIED)]):
            yield piece
        fresh = [token_id]


def _full(session: DeviceSession) -> bool:
    return len(session.tokens) >= session.facts.context_len


def _cut(session: DeviceSession, transcript: Transcript) -> None:
    """Tokens past the end of the answer were committed on the way, but do not stand."""
    session.truncate(session.boundary + len(transcript.token_ids))
