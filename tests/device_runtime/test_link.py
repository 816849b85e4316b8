"""Whole answers over a real socket to an edge that loses connections, restarts and forgets."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray

from device_runtime.edge_errors import EdgeLostError
from device_runtime.generate import (
    write_device_only,
    write_edge_only,
    write_lossy,
    write_split,
)
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.lossy import Improbable, Policy
from device_runtime.measured import RoundTimes
from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import SENTENCES, ConfigError, ErrorCode, RemoteError
from device_runtime.protocol.messages import (
    Begin,
    Hello,
    Refusal,
    Round,
    Stream,
    Tokens,
    Welcome,
    decode,
    encode,
)
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.transcript import FinishReason, Piece, Transcript
from device_runtime.turn import Counts
from tests.table_model import TableDrafter, TableEdge, random_table, vocabulary_hash

VOCAB = 12
LLM = random_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4]


class Fault(Enum):
    """What goes wrong with a message that comes up."""

    DROP_BEFORE = auto()
    """The connection breaks before the edge sees the message."""
    DROP_AFTER = auto()
    """The edge works on the message, but its answer is lost."""
    RESTART = auto()
    """As DROP_AFTER; the edge forgets every session, too."""
    FORGET = auto()
    """The edge loses the tokens of the session and keeps the connection."""
    BUSY = auto()
    """The edge does nothing, and says when to ask again."""
    DRAINING = auto()
    """The edge does nothing, says that it shuts down, and closes."""
    INTERNAL = auto()
    """As DRAINING, of a failure of its own."""
    CUT_STREAM = auto()
    """The connection breaks after the first answers to a message."""
    END_STREAM = auto()
    """As CUT_STREAM, after the edge, which drains, has ended the stream in good order."""


LOSSES = (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.RESTART)
REFUSALS = {
    Fault.BUSY: ErrorCode.BUSY,
    Fault.DRAINING: ErrorCode.DRAINING,
    Fault.INTERNAL: ErrorCode.INTERNAL,
}
NUM_BEFORE_THE_END = 3
"""Answers of a stream before it is cut or ended."""

Faults = Mapping[int, Fault]
"""By the number of the message that comes up; the first hello is 0."""
NONE: Faults = {}


def storm(seed: int) -> Faults:
    """Something goes wrong with a third of all messages."""
    random = Random(seed)
    kinds = list(Fault)
    return {number: random.choice(kinds) for number in range(1, 2000) if random.random() < 0.33}


class FaultyEdge:
    """A table edge behind aiohttp's own WebSocket server."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._edges: dict[bytes, TableEdge] = {}
        self.received: list[object] = []

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        edge = TableEdge(LLM)
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            fault = self._faults.get(len(self.received))
            self.received.append(decode(message.data))
            if fault is Fault.DROP_BEFORE:
                break
            if fault in REFUSALS:
                await socket.send_bytes(encode(Refusal(REFUSALS[fault], 0.01)))
                if fault is Fault.BUSY:
                    continue
                break
            edge = self._resumed(self.received[-1], edge)
            if fault is Fault.FORGET:
                edge.session.tokens.truncate(0)
            answers = self._answers(edge, message.data, fault)
            for answer in answers:
                await socket.send_bytes(answer)
            if fault not in (None, Fault.FORGET):
                break
        return socket

    def _answers(self, edge: TableEdge, data: bytes, fault: Fault | None) -> list[bytes]:
        """What is sent back, if it is."""
        try:
            answers = edge.answers(data)
        except RemoteError as error:
            answers = [encode(Refusal(error.code))]
        if fault is Fault.RESTART:
            self._edges.clear()
        if fault in LOSSES:
            return []
        is_cut = fault in (Fault.CUT_STREAM, Fault.END_STREAM)
        if not is_cut or len(answers) <= NUM_BEFORE_THE_END:
            return answers
        end = [encode(Tokens((), last=True))] if fault is Fault.END_STREAM else []
        return answers[:NUM_BEFORE_THE_END] + end

    def _resumed(self, message: object, edge: TableEdge) -> TableEdge:
        known = self._edges.get(getattr(message, "resume_token", b""))
        if known is not None:
            known.session.resume()
            edge = known
        self._edges[edge.session.resume_token] = edge
        return edge


@dataclass
class Outcome:
    tokens: list[int]
    text: str
    transcript: Transcript
    counts: Counts
    session: DeviceSession
    server: FaultyEdge


def a_session() -> DeviceSession:
    return DeviceSession(VOCAB, vocabulary_hash, "test")


def spell(token_id: int) -> bytes:
    return bytes([97 + token_id])


async def write(
    faults: Faults,
    generation: Generation,
    gamma: int = 3,
    num_tokens: int = 30,
    stops: tuple[str, ...] = (),
    edge_only: bool = False,
    policy: Policy | None = None,
    prompt: Sequence[int] = PROMPT,
    device: tuple[DeviceSession, TableDrafter] | None = None,
    times: RoundTimes | None = None,
    patience_s: float = 10.0,
) -> Outcome:
    """One answer through a faulty edge."""
    server = FaultyEdge(faults)
    app = web.Application()
    app.router.add_get("/v1/session", server.handle)
    session, drafter = device or (a_session(), TableDrafter(SLM))
    counts = Counts()
    transcript = Transcript(Detokenizer(spell, stops), frozenset(generation.end_ids), num_tokens)
    async with TestServer(app) as http:
        settings = LinkSettings(str(http.make_url("/")), patience_s=patience_s)
        async with EdgeLink(settings, session) as link:
            session.append(prompt)
            coins = device_coins(5)
            pieces: AsyncIterator[Piece]
            if edge_only:
                pieces = write_edge_only(link, generation, transcript)
            elif policy is not None:
                pieces = write_lossy(link, drafter, generation, policy, coins, transcript, counts)
            else:
                pieces = write_split(
                    link, drafter, generation, gamma, coins, transcript, counts, times=times
                )
            shown = "".join([piece.text async for piece in pieces])
    assert shown == transcript.text
    assert list(session.tokens.ids) == [*prompt, *transcript.token_ids]
    if not edge_only:
        assert list(drafter.tokens) == list(session.tokens.ids[: drafter.num_tokens])
    return Outcome(transcript.token_ids, shown, transcript, counts, session, server)


def begin(scheme: str = "dssd-thinned", temperature: float = 1.0) -> Generation:
    return Generation(scheme_named(scheme), Sampling(temperature), seed=77, end_ids=())


async def test_an_answer_has_the_length_asked_for() -> None:
    outcome = await write(NONE, begin())
    assert len(outcome.tokens) == 30
    assert outcome.transcript.finish_reason is FinishReason.LENGTH
    assert outcome.text == "".join(spell(token_id).decode() for token_id in outcome.tokens)


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
@pytest.mark.parametrize("fault", [*LOSSES, *REFUSALS, Fault.FORGET])
async def test_a_fault_at_any_message_leaves_the_text_as_it_was(scheme: str, fault: Fault) -> None:
    undisturbed = await write(NONE, begin(scheme), num_tokens=16)
    # Message 0 is the hello, 1 the begin, before which there is nothing to forget.
    for number in range(2 if fault is Fault.FORGET else 1, len(undisturbed.server.received) - 1):
        outcome = await write({number: fault}, begin(scheme), num_tokens=16)
        assert outcome.tokens == undisturbed.tokens, number
        assert len(outcome.server.received) > len(undisturbed.server.received)


class HeldDrafter(TableDrafter):
    """Drafts nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(SLM)
        self.go = threading.Event()

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        assert self.go.wait(10)
        return super().append(token_ids)


class MeetingSession(DeviceSession):
    """Has the whole block drafted just when it learns that the edge has forgotten everything."""

    def __init__(self, drafter: HeldDrafter, num_drafted: int) -> None:
        super().__init__(VOCAB, vocabulary_hash, "test")
        self._held, self._enough = drafter, num_drafted

    def receive_welcome(self, data: bytes) -> Welcome:
        is_second = self.welcome is not None
        welcome = super().receive_welcome(data)
        if is_second and not self._held.go.is_set():
            assert not welcome.resumed
            self._held.go.set()
            deadline_s = time.monotonic() + 10
            while self._held.num_tokens < self._enough:
                assert time.monotonic() < deadline_s
                time.sleep(0.001)
            time.sleep(0.05)  # what else the other thread wants to do
        return welcome


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
async def test_a_block_drafted_while_the_edge_is_told_everything_anew_fits(scheme: str) -> None:
    """The first block is drafted beside `Begin`; its message must not be built beside it."""
    undisturbed = await write(NONE, begin(scheme))
    drafter = HeldDrafter()
    session = MeetingSession(drafter, len(PROMPT) + 2)  # the last of three drafts is not run
    outcome = await write({1: Fault.RESTART}, begin(scheme), device=(session, drafter))
    assert drafter.go.is_set()
    assert outcome.tokens == undisturbed.tokens
    assert outcome.counts == undisturbed.counts
    rounds = [message for message in outcome.server.received if isinstance(message, Round)]
    assert min(message.base for message in rounds) == len(PROMPT)


async def test_the_clocks_readings_follow_each_other() -> None:
    times = RoundTimes()
    await write(NONE, begin(), times=times)
    assert len(times.clocks) > 3
    for clock in times.clocks:
        (sent_s, answered_s), *_ = clock.exchanges
        readings = [clock.start_s, clock.drafted_s, clock.encoded_s, sent_s, answered_s]
        assert readings == sorted(readings)
    for earlier, later in pairwise(times.clocks):
        assert earlier.exchanges[-1][1] <= later.start_s


@pytest.mark.parametrize("fault", list(Fault))
async def test_an_edge_only_stream_survives_a_fault(fault: Fault) -> None:
    undisturbed = await write(NONE, begin("coupled"), edge_only=True)
    outcome = await write({2: fault}, begin("coupled"), edge_only=True)
    assert isinstance(outcome.server.received[2], Stream)
    assert outcome.tokens == undisturbed.tokens
    assert outcome.transcript.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("edge_only", [False, True])
@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_of_faults_leaves_the_text_as_it_was(
    seed: int, scheme: str, edge_only: bool
) -> None:
    generation = begin(scheme)
    undisturbed = await write(NONE, generation, edge_only=edge_only)
    at_least = {2: Fault.CUT_STREAM} if edge_only else {}  # a stream is few messages
    outcome = await write({**storm(seed), **at_least}, generation, edge_only=edge_only)
    assert len(outcome.server.received) > len(undisturbed.server.received)
    assert outcome.tokens == undisturbed.tokens
    assert outcome.transcript.finish_reason is FinishReason.LENGTH


async def test_an_edge_restarted_and_then_busy_is_told_everything() -> None:
    """The session is new, and the message that tells it of the text is refused once or lost."""
    undisturbed = await write(NONE, begin())
    for again in (Fault.BUSY, Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.INTERNAL):
        faults = {4: Fault.RESTART, 6: again}
        outcome = await write(faults, begin())
        assert [type(m) for m in outcome.server.received[4:7]] == [Round, Hello, Begin]
        assert outcome.tokens == undisturbed.tokens


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.DRAINING, Fault.INTERNAL])
async def test_what_stays_in_the_way_ends_the_answer_with_the_patience(fault: Fault) -> None:
    faults = dict.fromkeys(range(4, 2000), fault)
    with pytest.raises(EdgeLostError, match=re.escape(SENTENCES[REFUSALS[fault]])):
        await write(faults, begin(), patience_s=0.3)


async def test_an_edge_that_asks_for_a_longer_wait_than_is_left_is_told_so() -> None:
    with pytest.raises(
        EdgeLostError, match=r"only 0\.0 s are left of --edge-patience 0\.009; raise"
    ):
        await write({4: Fault.BUSY}, begin(), patience_s=0.009)  # it asks for 0.01 s


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.BUSY])
async def test_without_patience_nothing_is_tried_again_or_said_to_be(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EdgeLostError):
        await write({4: fault}, begin(), patience_s=0.0)
    assert caplog.messages == []


@pytest.mark.parametrize("fault", [Fault.CUT_STREAM, Fault.END_STREAM])
async def test_without_patience_a_stream_that_breaks_off_ends_the_answer(fault: Fault) -> None:
    with pytest.raises(EdgeLostError, match="broke"):
        await write({2: fault}, begin(), edge_only=True, patience_s=0.0)


async def test_a_refused_hello_is_asked_again() -> None:
    undisturbed = await write(NONE, begin())
    outcome = await write({0: Fault.BUSY, 1: Fault.BUSY}, begin())
    assert outcome.tokens == undisturbed.tokens


async def test_coupled_text_is_the_edges_own() -> None:
    alone = await write(NONE, begin("coupled"), edge_only=True)
    for gamma in (0, 1, 5):
        assert (await write(NONE, begin("coupled"), gamma)).tokens == alone.tokens


@pytest.mark.parametrize("edge_only", [False, True])
async def test_a_stop_string_ends_the_text_and_both_lists(edge_only: bool) -> None:
    whole = await write(NONE, begin("coupled"), edge_only=edge_only)
    for start in range(0, 12, 3):
        stop = whole.text[start : start + 3]
        outcome = await write(NONE, begin("coupled"), stops=(stop,), edge_only=edge_only)
        assert outcome.text == whole.text[: whole.text.index(stop)]
        assert outcome.tokens == whole.tokens[: len(outcome.text)]
        assert outcome.transcript.finish_reason is FinishReason.END


async def test_an_end_token_is_kept_and_not_shown() -> None:
    whole = await write(NONE, begin("coupled"))
    end = whole.tokens[7]
    stop = whole.tokens.index(end)
    generation = Generation(scheme_named("coupled"), Sampling(), 77, (end,))
    for edge_only in (False, True):
        outcome = await write(NONE, generation, edge_only=edge_only)
        assert outcome.tokens == whole.tokens[: stop + 1]
        assert outcome.text == whole.text[:stop]
        assert outcome.transcript.finish_reason is FinishReason.END


@pytest.mark.parametrize("who", [{}, {"edge_only": True}, {"policy": Improbable()}])
async def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_done(
    who: dict[str, Any],
) -> None:
    drafter, session = TableDrafter(SLM), a_session()
    context_len = 512
    fitting = PROMPT * 171
    assert len(fitting) == context_len + 1
    for length in (context_len, context_len + 1):
        expected = rf"the prompt has {length} tokens, .* context of {context_len}.*; shorten"
        with pytest.raises(ConfigError, match=expected):
            await write(NONE, begin(), device=(session, drafter), prompt=fitting[:length], **who)
        session = a_session()
    assert drafter.num_run == 0
    outcome = await write(NONE, begin(), prompt=fitting[: context_len - 1], **who)
    assert len(outcome.tokens) == 1


@pytest.mark.parametrize("gamma", [0, 1, 3, 8])
async def test_every_arm_ends_where_the_context_ends(gamma: int) -> None:
    """Greedy, so the texts are the same, however many places the last blocks found."""
    greedy = begin("dssd-thinned", temperature=0.0)
    for num_left in range(1, 10):
        prompt = (PROMPT * 171)[: 512 - num_left]
        alone = await write(NONE, greedy, edge_only=True, prompt=prompt)
        split = await write(NONE, greedy, gamma, prompt=prompt)
        assert len(alone.tokens) == num_left and split.tokens == alone.tokens
        assert split.text == alone.text
        assert split.transcript.finish_reason is alone.transcript.finish_reason


async def test_an_edge_that_stays_away_is_given_up_after_the_patience() -> None:
    session = DeviceSession(VOCAB, vocabulary_hash, "test")
    with pytest.raises(EdgeLostError, match="no edge answers"):
        async with EdgeLink(LinkSettings("http://127.0.0.1:9", patience_s=0.1), session):
            pass


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (WSCloseCode.GOING_AWAY, r"the edge at http://\S+ shut down in order"),
        (WSCloseCode.INTERNAL_ERROR, r"the connection to http://\S+ broke"),
    ],
)
async def test_why_an_edge_closed_the_connection_is_told(
    code: WSCloseCode, said: str, is_busy: bool
) -> None:
    """A busy device finds out when it sends again, long after the edge has said so and left."""
    left = asyncio.Event()

    async def leave(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=0.05)
        await socket.prepare(request)
        for answer in TableEdge(LLM).answers(await socket.receive_bytes()):
            await socket.send_bytes(answer)
        await socket.close(code=code)
        assert request.transport is not None
        request.transport.close()
        left.set()
        return socket

    app = web.Application()
    app.router.add_get("/v1/session", leave)
    async with TestServer(app) as http:
        settings = LinkSettings(str(http.make_url("/")), patience_s=0.0)
        async with EdgeLink(settings, a_session()) as link:
            link.session.append(PROMPT)
            if is_busy:
                await left.wait()
                await asyncio.sleep(0.05)
            with pytest.raises(EdgeLostError, match=f"^{said}$"):
                await link.exchange(link.session.begin(begin()))


async def test_a_page_that_is_no_edge_is_named() -> None:
    async with TestServer(web.Application()) as http:
        session = DeviceSession(VOCAB, vocabulary_hash, "test")
        with pytest.raises(ConfigError, match="no Tandem edge"):
            async with EdgeLink(LinkSettings(str(http.make_url("/"))), session):
                pass


async def test_the_device_alone_needs_no_edge() -> None:
    texts = []
    for _ in range(2):
        transcript = Transcript(Detokenizer(spell), frozenset(), 20)
        pieces = write_device_only(
            TableDrafter(SLM), PROMPT, begin("coupled"), VOCAB, device_coins(1), transcript
        )
        texts.append("".join([piece.text async for piece in pieces]))
    assert texts[0] == texts[1] and len(texts[0]) == 20
