"""Many sessions on one edge at once: each writes its solo text, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
import pytest

from device_runtime.edge_options import session_url
from device_runtime.generate import write_edge_only, write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.messages import Kind
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES, scheme_named
from device_runtime.transcript import Transcript
from device_runtime.turn import Counts
from device_runtime.writer import Device
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge

GREEDY = Sampling(temperature=0.0)
Socket = aiohttp.ClientWebSocketResponse
STALL_S = 20.0
"""Longer than any round, and shorter than the edge waits for a ping's answer."""


@dataclass(frozen=True)
class Part:
    """What one session does: two answers, the second after more text."""

    prompt: str
    scheme: str
    gamma: int
    sampling: Sampling
    seed: int
    num_tokens: int
    streams: bool
    """Whether the LLM writes alone in company, too."""
    joins_after_s: float
    cuts: frozenset[int]
    """Before which messages the connection breaks."""


def a_part(number: int, num_tokens: int) -> Part:
    """A different one for every number. Greedy text is the same under every scheme."""
    random = Random(number)
    greedy, first_cut = random.random() < 0.4, random.randrange(2, 6)
    sampling = GREEDY if greedy else a_sampling(random)
    return Part(
        prompt=PROMPTS[number % len(PROMPTS)][: random.randrange(12, 60)],
        scheme=random.choice(sorted(SCHEMES)) if greedy else "coupled",
        gamma=random.randrange(1, 9),
        sampling=sampling,
        seed=random.getrandbits(64),
        num_tokens=random.randrange(num_tokens // 2, num_tokens + 1),
        streams=random.random() < 0.2,
        joins_after_s=random.random() * 0.3,
        cuts=frozenset((first_cut, first_cut + 6)) if random.random() < 0.3 else frozenset(),
    )


def a_sampling(random: Random) -> Sampling:
    return Sampling(
        temperature=random.choice((0.5, 0.8, 1.0, 1.3)),
        top_k=random.choice((0, 0, 20)),
        top_p=random.choice((1.0, 0.9)),
        min_p=random.choice((0.0, 0.02)),
        repetition_penalty=random.choice((1.0, 1.2)),
        presence_penalty=random.choice((0.0, 0.5)),
        frequency_penalty=random.choice((0.0, 0.3)),
        logit_bias=random.choice(((), ((40, 2.0), (100, -5.0)))),
    )


class BreakingLink(EdgeLink):
    """A link whose connection breaks at the messages of these numbers."""

    cuts: frozenset[int] = frozenset()

    async def send(self, data: bytes) -> None:
        cut = self.traffic.frames_up in self.cuts
        self.cuts -= {self.traffic.frames_up}
        assert self._socket is not None
        if cut and data[1] != Kind.STREAM:
            vanish(self._socket)
        await super().send(data)
        if cut:
            vanish(self._socket)


def vanish(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Without a word: no closing frame, no orderly end of the TCP connection."""
    connection = socket._response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


async def text_of(url: str, device: Device, part: Part, *, solo: bool) -> list[list[int]]:
    """The two answers. Solo is the LLM alone on an edge that has nothing else to do."""
    if not solo:
        await asyncio.sleep(part.joins_after_s)
    answers = []
    breaking = BreakingLink(LinkSettings(url), device.session())
    breaking.cuts = frozenset() if solo else part.cuts
    async with breaking as link:
        generation = Generation(scheme_named(part.scheme), part.sampling, part.seed, ())
        device.drafter.truncate(0)
        for text in (part.prompt, " And then"):
            ids = device.tokenizer.encode_text(text)
            link.session.append(ids)
            detokenizer = device.tokenizer.detokenizer(ids, ())
            transcript = Transcript(detokenizer, frozenset(), part.num_tokens)
            if solo or part.streams:
                pieces = write_edge_only(link, generation, transcript)
            else:
                pieces = write_split(
                    link, device.drafter, generation, part.gamma, device_coins(part.seed),
                    transcript, Counts(),
                )  # fmt: skip
            async for _ in pieces:
                pass
            answers.append(transcript.token_ids)
    return answers


@asynccontextmanager
async def bad_company(url: str, device: Device) -> AsyncIterator[None]:
    """Clients that send rubbish or vanish, over and over, and some that stall, until the block ends."""
    tasks = [asyncio.create_task(misbehave(url, device, Random(number))) for number in range(4)]
    stalled = [asyncio.Event() for _ in range(4)]
    ways = (reads_nothing, sends_half_a_message) * 2
    for way, event in zip(ways, stalled, strict=True):
        tasks.append(asyncio.create_task(stall(url, device, way, event)))
    await asyncio.gather(*(event.wait() for event in stalled))
    try:
        yield
    finally:
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def misbehave(url: str, device: Device, random: Random) -> None:
    ways = (rubbish, rubbish_inside, half_an_answer)
    async with aiohttp.ClientSession() as http:
        while True:
            socket = await http.ws_connect(session_url(url), compress=0)
            with suppress(ConnectionError, aiohttp.ClientError):
                await random.choice(ways)(socket, device, random)
            vanish(socket)
            await asyncio.sleep(0.002)


async def stall(url: str, device: Device, way: Any, stalled: asyncio.Event) -> None:
    """A session in order that stands still for longer than any round, is gone, and comes again."""
    async with aiohttp.ClientSession() as http:
        while True:
            socket = await http.ws_connect(session_url(url), compress=0)
            session = device.session()
            await socket.send_bytes(session.hello())
            session.receive_welcome((await socket.receive()).data)
            session.append([5, 6, 7])
            scheme = scheme_named("coupled")
            generation = Generation(scheme, Sampling(), 7, (), pad_to_bytes=1 << 16)
            await socket.send_bytes(session.begin(generation))
            session.receive_begun((await socket.receive()).data)
            assert socket._response.connection is not None
            await way(socket, session, socket._response.connection.transport)
            stalled.set()
            try:
                await asyncio.sleep(STALL_S)
            finally:
                vanish(socket)


async def reads_nothing(socket: Socket, session: DeviceSession, transport: Any) -> None:
    """Asks for more than fits between the two, and takes none of it."""
    transport.pause_reading()
    await socket.send_bytes(session.stream(900))


async def sends_half_a_message(socket: Socket, session: DeviceSession, transport: Any) -> None:
    """A frame of 256 bytes ends after three of them."""
    assert session.boundary and not socket.closed
    transport.write(b"\x82\xfe\x01\x00mask\x00\x01\x02")


async def rubbish(socket: Socket, device: Device, random: Random) -> None:
    for _ in range(random.randrange(1, 12)):
        await socket.send_bytes(random.randbytes(random.randrange(200)))


async def rubbish_inside(socket: Socket, device: Device, random: Random) -> None:
    """A session in order, and then messages that only begin like messages."""
    await socket.send_bytes(device.session().hello())
    for _ in range(random.randrange(1, 12)):
        await socket.send_bytes(bytes([1, random.randrange(16)]) + random.randbytes(40))
    await socket.send_str("rubbish")


async def half_an_answer(socket: Socket, device: Device, random: Random) -> None:
    """Asks for a long text, hears a part of it, says nothing for a while and is gone."""
    session = device.session()
    await socket.send_bytes(session.hello())
    session.receive_welcome((await socket.receive()).data)
    session.append([random.randrange(4, 300) for _ in range(random.randrange(1, 150))])
    generation = Generation(scheme_named("coupled"), a_sampling(random), random.getrandbits(64), ())
    await socket.send_bytes(session.begin(generation))
    await socket.send_bytes(session.stream(200))
    for _ in range(random.randrange(12)):
        await socket.receive(5)
    await asyncio.sleep(0.02 * random.random())


async def check(pair: Pair, num_sessions: int, num_tokens: int) -> None:
    parts = [a_part(number, num_tokens) for number in range(num_sessions)]
    alone = pair.device()
    async with running_edge(pair.llm) as url:
        wanted = [await text_of(url, alone, part, solo=True) for part in parts]
    async with running_edge(pair.llm, replicas=2) as url, bad_company(url, alone):
        together = await asyncio.gather(
            *(text_of(url, pair.device(), part, solo=False) for part in parts)
        )
    different = [part for part, a, b in zip(parts, wanted, together, strict=True) if a != b]
    assert different == []


async def test_each_session_writes_its_solo_text(tiny_pair: Pair) -> None:
    await check(tiny_pair, num_sessions=12, num_tokens=16)


@pytest.mark.slow
async def test_each_of_64_sessions_writes_its_solo_text(demo_pair: Pair) -> None:
    await check(demo_pair, num_sessions=64, num_tokens=40)
