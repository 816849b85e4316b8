"""An edge that dies in the middle of an answer, or stops answering, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from device_runtime.edge_errors import EdgeLostError
from device_runtime.edge_loss import own_token
from device_runtime.generate import write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.messages import Begin, Hello, Round, decode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.schemes.base import Place
from device_runtime.protocol.schemes.coupled import coupled_token
from device_runtime.transcript import FinishReason, Transcript
from device_runtime.turn import Counts, Origin
from tests.table_model import TableDrafter, TableEdge, random_table, vocabulary_hash

VOCAB = 12
LLM = random_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4]
GREEDY = Sampling(temperature=0.0)


@dataclass
class MortalEdge:
    """A table edge that can be killed, fall silent and come back, with or without its memory."""

    is_up: bool = True
    status_when_down: int = 503
    was_reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a device has shaken hands or was turned away."""
    is_silent: bool = False
    messages: list[object] = field(default_factory=list)
    _sessions: dict[bytes, TableEdge] = field(default_factory=dict)
    _open: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not self.is_up:
            self.was_reached.set()
            return web.Response(status=self.status_when_down)
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._open.append(request)
        edge = TableEdge(LLM)
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            if self.is_silent:
                continue
            self.messages.append(decode(message.data))
            known = self._sessions.get(getattr(self.messages[-1], "resume_token", b""))
            if known is not None:
                known.session.resume()
                edge = known
            self._sessions[edge.session.resume_token] = edge
            for answer in edge.answers(message.data):
                await socket.send_bytes(answer)
            self.was_reached.set()
        return socket

    def kill(self, *, forget: bool) -> None:
        self.is_up = False
        if forget:
            self._sessions.clear()
        for request in self._open:
            if request.transport is not None:
                request.transport.abort()
        self._open.clear()

    def freeze(self) -> None:
        """Connections that are open stand, and nothing crosses them any more."""
        for request in self._open:
            if request.transport is not None:
                assert isinstance(request.transport, asyncio.Transport)
                request.transport.pause_reading()

    async def revive(self) -> None:
        """Up again; returns when a device has shaken hands."""
        self.is_up = True
        await self.next_try()

    async def next_try(self) -> None:
        """Until the device has tried to connect once more and knows the outcome."""
        self.was_reached.clear()
        await self.was_reached.wait()
        await asyncio.sleep(0.05)


@dataclass
class Outcome:
    transcript: Transcript
    counts: Counts
    shown: list[tuple[str, Origin]]
    session: DeviceSession
    drafter: TableDrafter


React = Callable[[MortalEdge, int], Awaitable[None]]
"""Called with the number of tokens so far, after each piece."""


@asynccontextmanager
async def serving(edge: MortalEdge) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/session", edge.handle)
    async with TestServer(app) as http:
        yield str(http.make_url("/"))
        edge.kill(forget=True)  # a frozen connection does not end by itself


async def write(
    edge: MortalEdge,
    react: React,
    *,
    scheme: str = "dssd-thinned",
    sampling: Sampling = GREEDY,
    num_tokens: int = 60,
    patience_s: float = 0.2,
    local: bool = True,
    end_ids: tuple[int, ...] = (),
    seed: int = 77,
) -> Outcome:
    session = DeviceSession(VOCAB, vocabulary_hash, "test")
    drafter, counts = TableDrafter(SLM), Counts()
    detokenizer = Detokenizer(lambda token_id: bytes([97 + token_id]), ())
    transcript = Transcript(detokenizer, frozenset(end_ids), num_tokens)
    generation = Generation(scheme_named(scheme), sampling, seed, end_ids)
    shown = []
    async with (
        serving(edge) as url,
        EdgeLink(LinkSettings(url, patience_s=patience_s, heartbeat_s=0.3), session) as link,
    ):
        session.append(PROMPT)
        pieces = write_split(
            link, drafter, generation, 4, device_coins(5), transcript, counts,
            local_after_s=patience_s if local else None,
        )  # fmt: skip
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    shown.append((piece.text, piece.origin))
                    await react(edge, len(shown))
        finally:
            names = {getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()}
            assert "_search" not in names
    assert "".join(text for text, _ in shown) == transcript.text
    assert list(session.tokens.ids) == [*PROMPT, *transcript.token_ids]
    assert list(drafter.tokens) == list(session.tokens.ids[: drafter.num_tokens])
    return Outcome(transcript, counts, shown, session, drafter)


async def never(edge: MortalEdge, num_tokens: int) -> None:
    """Nothing happens."""


def dying(at: int, back_after: int | None, *, forget: bool) -> React:
    """Killed after `at` tokens, back after that many unverified ones more."""
    lost: list[int] = []

    async def react(edge: MortalEdge, count: int) -> None:
        if count == at:
            edge.kill(forget=forget)
        elif not edge.is_up and back_after is not None:
            lost.append(count)
            if len(lost) == back_after:
                await edge.revive()

    return react


def best(table: np.ndarray, token_id: int) -> int:
    return int(np.argmax(table[token_id]))


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("at", [1, 7, 20])
async def test_the_slm_bridges_the_gap_and_the_edge_takes_over_again(at: int, forget: bool) -> None:
    """Greedy, so every token tells who wrote it."""
    outcome = await write(MortalEdge(), dying(at, back_after=8, forget=forget))
    transcript = outcome.transcript
    ((first, end),) = transcript.unverified_spans
    assert len(transcript.token_ids) == 60 and outcome.counts.unverified == end - first
    assert at <= first and 4 <= end - first < 60 - first
    for index, (before, token_id) in enumerate(pairwise([PROMPT[-1], *transcript.token_ids])):
        verified = not first <= index < end
        assert token_id == best(LLM if verified else SLM, before), index
    marked = [origin is Origin.UNVERIFIED for _, origin in outcome.shown]
    assert marked == [first <= index < end for index in range(60)]


@pytest.mark.parametrize("scheme", ["dssd-thinned", "dssd-packed", "coupled", "greedy-draft"])
async def test_sampled_text_goes_on_with_every_scheme(scheme: str) -> None:
    react = dying(9, back_after=5, forget=True)
    outcome = await write(MortalEdge(), react, scheme=scheme, sampling=Sampling())
    ((first, end),) = outcome.transcript.unverified_spans
    assert 9 <= first < end < 60
    assert outcome.counts.accepted and len(outcome.transcript.token_ids) == 60


async def test_an_edge_that_never_returns_leaves_the_rest_to_the_slm() -> None:
    outcome = await write(MortalEdge(), dying(9, back_after=None, forget=True))
    ((first, end),) = outcome.transcript.unverified_spans
    assert first >= 9 and end == len(outcome.transcript.token_ids) == 60
    assert outcome.transcript.finish_reason is FinishReason.LENGTH


async def test_an_end_token_of_the_slm_ends_the_answer() -> None:
    whole = await write(MortalEdge(), dying(9, back_after=None, forget=True))
    ((first, _),) = whole.transcript.unverified_spans
    text = whole.transcript.token_ids
    end = next(i for i in range(first, 60) if text[i] not in text[:i])
    outcome = await write(
        MortalEdge(), dying(9, back_after=None, forget=True), end_ids=(text[end],)
    )
    assert outcome.transcript.token_ids[-1] == text[end]
    assert outcome.transcript.finish_reason is FinishReason.END


async def test_the_slm_stops_where_the_llms_context_ends() -> None:
    """It would have to be verified, or at least read, some day."""
    react = dying(9, back_after=None, forget=True)
    outcome = await write(MortalEdge(), react, num_tokens=2000)
    assert len(outcome.session.tokens) == outcome.session.facts.context_len
    assert outcome.transcript.finish_reason is FinishReason.LENGTH


async def test_an_edge_that_falls_silent_is_left_behind() -> None:
    async def react(edge: MortalEdge, count: int) -> None:
        edge.is_silent = count >= 9

    outcome = await write(MortalEdge(), react, patience_s=0.1, num_tokens=25)
    ((first, end),) = outcome.transcript.unverified_spans
    assert 9 <= first < end == 25


async def test_two_losses_leave_two_spans() -> None:
    first, second = (dying(at, back_after=4, forget=True) for at in (6, 40))

    async def react(edge: MortalEdge, count: int) -> None:
        await (first if count < 35 else second)(edge, count)

    outcome = await write(MortalEdge(), react, num_tokens=80)
    spans = outcome.transcript.unverified_spans
    assert len(spans) == 2
    assert outcome.counts.unverified == sum(end - begin for begin, end in spans)


async def test_a_short_break_is_mended_without_the_slm() -> None:
    """The same text as undisturbed: `local` waits for its patience first."""

    async def blink(edge: MortalEdge, count: int) -> None:
        if count == 9:
            edge.kill(forget=True)
            edge.is_up = True

    sampling = Sampling()
    undisturbed = await write(MortalEdge(), never, scheme="coupled", sampling=sampling)
    mended = await write(MortalEdge(), blink, scheme="coupled", sampling=sampling, patience_s=5.0)
    assert mended.transcript.token_ids == undisturbed.transcript.token_ids
    assert mended.transcript.unverified_spans == []


async def test_an_edge_that_comes_back_but_refuses_is_not_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The token no longer counts there: the SLM writes to the end and says why."""

    async def react(edge: MortalEdge, count: int) -> None:
        if count == 9:
            edge.kill(forget=True)
        if count == 15:
            edge.status_when_down = 401
            await edge.next_try()

    outcome = await write(MortalEdge(), react)
    ((_, end),) = outcome.transcript.unverified_spans
    assert end == 60
    assert "goes on alone to the end" in caplog.text


async def test_the_edge_learns_the_slms_tokens_and_keeps_the_boundary() -> None:
    """Penalties count from where the answer began, not from where the edge came back."""
    edge = MortalEdge()
    await write(edge, dying(9, back_after=5, forget=True))
    begins = [m for m in edge.messages if isinstance(m, Begin)]
    assert {m.boundary for m in begins} == {len(PROMPT)}
    last = begins[-1]
    rounds = [m for m in edge.messages if isinstance(m, Round) and m.epoch >= last.epoch]
    assert rounds and last.base + len(last.appended) > len(PROMPT) + 9


@pytest.mark.parametrize("patience_s", [0.0, 0.2])
async def test_without_local_the_answer_ends_when_the_patience_does(patience_s: float) -> None:
    react = dying(9, back_after=None, forget=True)
    with pytest.raises(EdgeLostError):
        await write(MortalEdge(), react, patience_s=patience_s, local=False)


@pytest.mark.parametrize("status", [429, 500, 502, 504])
async def test_a_proxy_whose_edge_is_away_is_waited_for(status: int) -> None:
    async def leaving(edge: MortalEdge, num_tokens: int) -> None:
        if num_tokens == 9:
            edge.kill(forget=True)
            background.append(asyncio.create_task(returning(edge)))

    async def returning(edge: MortalEdge) -> None:
        await edge.next_try()
        await edge.revive()

    background: list[asyncio.Task[None]] = []
    undisturbed = await write(MortalEdge(), never, local=False)
    edge = MortalEdge(status_when_down=status)
    outcome = await write(edge, leaving, local=False, patience_s=5.0)
    (came_back,) = background
    await came_back
    assert outcome.transcript.token_ids == undisturbed.transcript.token_ids


async def test_an_edge_that_falls_silent_for_good_is_left_for_a_new_connection() -> None:
    async def freezing(edge: MortalEdge, num_tokens: int) -> None:
        if num_tokens == 9:
            edge.freeze()

    undisturbed = await write(MortalEdge(), never, local=False)
    edge = MortalEdge()
    outcome = await write(edge, freezing, local=False, patience_s=5.0)
    assert sum(isinstance(message, Hello) for message in edge.messages) > 1
    assert outcome.transcript.token_ids == undisturbed.transcript.token_ids


def test_penalties_of_the_slms_own_tokens_count_from_where_the_answer_began() -> None:
    table = np.full((3, 3), -5.0, np.float32)
    table[:, 0], table[:, 1] = 2.0, 1.0
    generation = Generation(
        scheme_named("dssd-thinned"), Sampling(0.0, presence_penalty=1.5), seed=1, end_ids=()
    )
    coins = device_coins(1)
    text = [0, 0]
    for wanted in (0, 1, 0):  # both were generated by then
        text.append(own_token(TableDrafter(table), text, 2, generation, 3, coins))
        assert text[-1] == wanted


def test_the_slms_own_tokens_follow_from_the_seed_where_the_scheme_is_coupled() -> None:
    """As its drafts do, with the noise of their places: `--device-only --seed` repeats a text."""
    generation = Generation(scheme_named("coupled"), Sampling(), seed=77, end_ids=())
    text = list(PROMPT)
    for _ in range(12):
        wanted = coupled_token(to_law(SLM[text[-1]], Sampling(), ()), Place(77, len(text)))
        text.append(own_token(TableDrafter(SLM), text, 3, generation, VOCAB, device_coins(1)))
        assert text[-1] == wanted


async def test_a_reader_who_leaves_in_the_gap_leaves_no_task_behind() -> None:
    class EnoughError(Exception):
        pass

    async def react(edge: MortalEdge, count: int) -> None:
        if count == 9:
            edge.kill(forget=True)
        if count == 20:
            raise EnoughError

    with pytest.raises(EnoughError):
        await write(MortalEdge(), react)
