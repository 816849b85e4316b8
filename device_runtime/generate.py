"""Ways to write an answer: device and edge together, the edge alone, the device alone, lossy.

Each yields pieces of text as they become certain, into a `Transcript`. Drafting runs in a thread,
so that the connection stays alive while a slow board computes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from device_runtime.cancellation import in_thread
from device_runtime.drafter import Drafter
from device_runtime.edge_errors import EdgeLostError
from device_runtime.edge_loss import own_token, write_until_back
from device_runtime.link import EdgeLink
from device_runtime.lossy import LossyTurn, Policy
from device_runtime.measured import RoundTimes
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.randomness import Coins
from device_runtime.round_clock import RoundClock
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Committed, Counts, Origin, Turn

logger = logging.getLogger(__name__)


async def write_split(
    link: EdgeLink,
    drafter: Drafter,
    generation: Generation,
    gamma: int,
    coins: Coins,
    transcript: Transcript,
    counts: Counts,
    *,
    times: RoundTimes | None = None,
    local_after_s: float | None = None,
) -> AsyncGenerator[Piece, None]:
    """Draft on the device, verify on the edge, after the tokens the session holds.

    When the answer is over, both token lists end where it ends: another generation may follow.
    times: where the clock's readings are collected. local_after_s: how long an answer may stay out
    before the SLM goes on alone (`edge_loss`); None: EdgeLostError ends it when the link gives up.
    """
    session = link.session
    begin = _begin(session, generation)
    while transcript.finish_reason is None:
        turn = Turn(session, drafter, generation, coins, counts)
        edge = _Edge(link, times or RoundTimes(), local_after_s)
        try:
            async with aclosing(_rounds(edge, turn, begin, gamma, transcript)) as pieces:
                async for piece in pieces:
                    yield piece
        except EdgeLostError as loss:
            if local_after_s is None:
                raise
            logger.warning("the edge is gone, and the device goes on alone: %s", loss)
            own = write_until_back(link, drafter, generation, coins, transcript, counts)
            async with aclosing(own) as pieces:
                async for piece in pieces:
                    yield piece
            if transcript.finish_reason is None:
                begin = session.begin_again()
        transcript.logprobs.update(turn.logprobs)
    _cut(session, transcript)
    _leave_last(drafter, session)


async def _rounds(
    edge: _Edge, turn: Turn, begin: bytes, gamma: int, transcript: Transcript
) -> AsyncGenerator[Piece, None]:
    """Rounds until the answer is over. The first block is drafted while the edge reads the text.

    Its message is built afterwards: what the edge knows, and so what the message must carry, is
    open as long as a lost connection may have to be opened again.
    """
    session, times = edge.link.session, edge.times
    drafting = asyncio.create_task(in_thread(_draft, turn, gamma, transcript))
    try:
        begun, begin_s = await edge.answer(begin)
    except asyncio.CancelledError:
        drafting.cancel()
        raise
    finally:
        clock = await drafting  # whatever comes next needs the drafter for itself
    session.receive_begun(begun)
    data = await asyncio.to_thread(_encode, turn, clock)
    if begin_s is not None:
        times.began(begin_s, len(begin))
    while True:
        async with aclosing(_round(edge, turn, data, clock, transcript)) as pieces:
            async for piece in pieces:
                yield piece
        if _full(session):
            for piece in transcript.out_of_context():
                yield piece
        if transcript.finish_reason is not None:
            return
        drafted_before = turn.counts.drafted
        data, clock = await in_thread(_draft_and_encode, turn, gamma, transcript)
        times.drafted(clock.drafted_s - clock.start_s, turn.counts.drafted - drafted_before)


def _draft(turn: Turn, gamma: int, transcript: Transcript) -> RoundClock:
    """Draft the next block; one token of the answer is left to the edge."""
    start_s = time.monotonic()
    turn.draft_block(min(gamma, transcript.num_left - 1))
    return RoundClock(start_s, time.monotonic())


def _encode(turn: Turn, clock: RoundClock) -> bytes:
    """The message of the block that was drafted."""
    data = turn.encode()
    clock.encoded_s = time.monotonic()
    return data


def _draft_and_encode(turn: Turn, gamma: int, transcript: Transcript) -> tuple[bytes, RoundClock]:
    """Both in one go: waking a thread takes longer than most messages do."""
    clock = _draft(turn, gamma, transcript)
    return _encode(turn, clock), clock


async def _round(
    edge: _Edge, turn: Turn, block: bytes, clock: RoundClock, transcript: Transcript
) -> AsyncGenerator[Piece, None]:
    """Have a block judged and settle the verdict, with as many draws as that needs."""
    counts, before = turn.counts, replace(turn.counts)
    data: bytes | None = block
    while data is not None:
        sent_s = time.monotonic()
        answer, answer_s = await edge.answer(data)
        answered_s = time.monotonic()
        step = turn.receive(answer)
        if not clock.exchanges and answer_s is not None:
            rejected = counts.rejected > before.rejected
            edge.times.judged(answer_s, len(data), len(answer), rejected=rejected)
        clock.exchanges.append((sent_s, answered_s))
        pieces = transcript.add(step.committed)
        clock.settle_s += time.monotonic() - answered_s
        for piece in pieces:
            yield piece
        data = step.send
    clock.num_accepted = counts.accepted - before.accepted
    clock.num_judged = clock.num_accepted + counts.rejected - before.rejected
    edge.times.clocks.append(clock)


@dataclass(frozen=True, slots=True)
class _Edge:
    """The link with a clock and, if wanted, a limit to its patience."""

    link: EdgeLink
    times: RoundTimes
    patience_s: float | None

    async def answer(self, data: bytes) -> tuple[bytes, float | None]:
        """The answer and the seconds it took; None where the connection was mended on the way."""
        frames_before, started_s = self.link.traffic.frames_up, time.monotonic()
        try:
            answer = await asyncio.wait_for(self.link.exchange(data), self.patience_s)
        except (asyncio.TimeoutError, TimeoutError):
            raise EdgeLostError(f"no answer within {self.patience_s:g} s") from None
        undisturbed = self.link.traffic.frames_up == frames_before + 1
        return answer, time.monotonic() - started_s if undisturbed else None


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
    session.receive_begun(await link.exchange(_begin(session, generation)))
    turn = LossyTurn(session, drafter, generation, coins, counts, policy)
    while transcript.finish_reason is None:
        step = await in_thread(turn.next)
        pieces = transcript.add(step.committed)
        while step.send is not None:
            step = turn.receive(await link.exchange(step.send))
            pieces += transcript.add(step.committed)
        if _full(session):
            pieces += transcript.out_of_context()
        transcript.logprobs.update(turn.logprobs)
        for piece in pieces:
            yield piece
    _cut(session, transcript)
    _leave_last(drafter, session)


async def write_edge_only(
    link: EdgeLink, generation: Generation, transcript: Transcript
) -> AsyncIterator[Piece]:
    """The LLM alone, streamed: the baseline, and the text that `coupled` reproduces."""
    session = link.session
    session.receive_begun(await link.exchange(_begin(session, generation)))
    while transcript.finish_reason is None and not _full(session):
        async with aclosing(_stream(link, transcript)) as pieces:
            async for piece in pieces:
                yield piece
    for piece in transcript.out_of_context():
        yield piece
    _cut(session, transcript)


async def _stream(link: EdgeLink, transcript: Transcript) -> AsyncGenerator[Piece, None]:
    """One stream, to the end of the answer or until it breaks off: the edge drains, or is lost.

    EdgeLostError where the link has no patience with that.
    """
    session = link.session
    data = await link.exchange(session.stream(transcript.num_left))
    try:
        while True:
            tokens, was_running = session.receive_tokens(data), transcript.finish_reason is None
            for piece in transcript.add(Committed(i, Origin.BONUS) for i in tokens.ids):
                yield piece
            if tokens.last:
                return
            if was_running and transcript.finish_reason is not None:
                await link.send(session.cancel())
            data = await link.receive()
    except EdgeLostError as loss:
        if not link.is_patient:
            raise
        logger.warning("%s", loss)


async def write_device_only(
    drafter: Drafter,
    prompt_ids: list[int],
    generation: Generation,
    num_ids: int,
    coins: Coins,
    transcript: Transcript,
) -> AsyncIterator[Piece]:
    """The SLM alone: what the device can do without an edge."""
    drafter.truncate(0)
    while transcript.finish_reason is None:
        text = [*prompt_ids, *transcript.token_ids]
        token_id = await in_thread(
            own_token, drafter, text, len(prompt_ids), generation, num_ids, coins
        )
        for piece in transcript.add([Committed(token_id, Origin.UNVERIFIED)]):
            yield piece


def _begin(session: DeviceSession, generation: Generation) -> bytes:
    """The message that begins it; ConfigError where the LLM's context has no room for an answer.

    The edge would refuse it, too, after all of it had gone up, and could not say the numbers.
    """
    num_tokens, context_len = len(session.tokens), session.facts.context_len
    if num_tokens >= context_len:
        raise ConfigError(
            f"the prompt has {num_tokens} tokens, and the LLM's context of {context_len} must hold "
            f"the answer, too; shorten it by {num_tokens - context_len + 1} tokens or more, or take "
            "an edge whose context is longer"
        )
    return session.begin(generation)


def _full(session: DeviceSession) -> bool:
    return len(session.tokens) >= session.facts.context_len


def _cut(session: DeviceSession, transcript: Transcript) -> None:
    """Tokens past the end of the answer were committed on the way, but do not stand."""
    session.truncate(session.boundary + len(transcript.token_ids))


def _leave_last(drafter: Drafter, session: DeviceSession) -> None:
    """The last token runs again if another generation follows: its row may be gone."""
    drafter.truncate(min(drafter.num_tokens, len(session.tokens) - 1))
