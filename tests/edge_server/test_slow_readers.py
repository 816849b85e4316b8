"""Clients that do not read: they lose their connection, hold on to nothing, and stall nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_states import Job, Result
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from edge_server.app import make_app
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.connection import Connection, ConnectionLimits
from edge_server.facts import edge_facts, read_tokens
from edge_server.state import EDGE, Edge
from edge_server.text import EdgeText
from tests.edge_client import EdgeClient
from tests.table_engine import TableEngine, TableSlot
from tests.table_model import TableRows, random_table, vocabulary_hash
from tests.tiny_models import END_ID, NUM_TOKENS

GREEDY = Generation(scheme_named("greedy-draft"), Sampling(temperature=0.0), seed=7, end_ids=())
SEND_TIMEOUT_S = 0.4


class WatchedEngine(TableEngine):
    """Remembers the rows that it gave, but does not hold them."""

    def __init__(self) -> None:
        super().__init__(random_table(NUM_TOKENS, seed=4), context_len=200_000)
        self.given: list[weakref.ref[TableRows]] = []

    def run(self, batch: Sequence[tuple[TableSlot, Job]]) -> list[Result]:
        super().run(batch)
        rows = [TableRows(self.table, job, NUM_TOKENS) for _, job in batch]
        self.given += [weakref.ref(row) for row in rows]
        return [partial(job.read, own) for (_, job), own in zip(batch, rows, strict=True)]

    @property
    def num_alive(self) -> int:
        gc.collect()
        return sum(ref() is not None for ref in self.given)


class Served:
    def __init__(self, client: TestClient[Any, Any], engine: WatchedEngine) -> None:
        self.client = client
        self.engine = engine
        self.edge: Edge = client.app[EDGE]


@pytest.fixture
async def served(checkpoint: Callable[[str], Path]) -> AsyncIterator[Served]:
    engine = WatchedEngine()
    opened = Checkpoint.open(checkpoint("llama"))
    facts = edge_facts(opened, read_tokens(opened.folder), engine.context_len)
    facts = replace(facts, vocabulary_hash=vocabulary_hash)
    config = EdgeConfig(send_timeout_s=SEND_TIMEOUT_S)
    app = make_app([engine], facts, config, EdgeText.open(opened.folder))
    async with TestClient(TestServer(app)) as client:
        yield Served(client, engine)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


def stop_reading(transport: asyncio.Transport) -> None:
    """What the kernel takes by itself is a few kilobytes from now on."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport.pause_reading()


def shrink_buffers(served: Served) -> None:
    """The same for what the server's side takes."""
    for handler in connections(served):
        kernel = handler.transport.get_extra_info("socket")
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def connections(served: Served) -> list[Any]:
    server: Any = served.client.server
    return list(server.runner.server.connections)


async def a_device(served: Served, generation: Generation = GREEDY) -> EdgeClient:
    session = DeviceSession(NUM_TOKENS, vocabulary_hash, "test")
    session.append([5, 6, 7])
    device = await EdgeClient.connect(served.client, session)
    await device.begin(generation)
    return device


async def test_a_device_that_does_not_read_is_dropped_and_stalls_nobody(served: Served) -> None:
    good = await a_device(served)
    wanted = await (await a_device(served)).stream(5)
    slow = await a_device(served, replace(GREEDY, pad_to_bytes=1 << 16))
    connection = slow.socket._response.connection
    assert connection is not None and connection.transport is not None
    stop_reading(connection.transport)
    shrink_buffers(served)
    await slow.socket.send_bytes(slow.session.stream(100_000))
    before = len(served.engine.batches)
    await until(lambda: len(served.engine.batches) > before)
    assert await asyncio.wait_for(good.stream(5), 5) == wanted
    await until(lambda: len(served.edge.connections) == 2)
    assert served.edge.replicas.num_waiting == 0
    connection.transport.abort()
    again = await EdgeClient.connect(served.client, slow.session)  # its session waits for it
    assert again.session.facts.resumed


async def test_a_blocked_send_to_a_device_holds_no_rows(served: Served) -> None:
    device = await a_device(served)
    (connection,) = served.edge.connections
    blocked = asyncio.Event()

    async def block(_: bytes) -> None:
        blocked.set()
        await asyncio.sleep(10)

    connection._socket.send_bytes = block  # type: ignore[method-assign, assignment]
    await device.socket.send_bytes(device.session.stream(5))
    await asyncio.wait_for(blocked.wait(), 5)
    assert len(served.engine.given) >= 2
    await asyncio.sleep(0.05)
    assert served.engine.num_alive == 0


async def test_refusals_to_a_device_that_blocks_hold_no_rows(served: Served) -> None:
    """What a stream does not allow is refused while it runs, with the next rows at hand."""
    device = await a_device(served)
    (connection,) = served.edge.connections
    blocked = asyncio.Event()

    async def block(_: bytes) -> None:
        blocked.set()
        await asyncio.sleep(10)

    served.engine.gate.clear()
    await device.socket.send_bytes(device.session.stream(5))
    await until(lambda: len(served.engine.batches) == 2)
    await device.socket.send_bytes(b"\1\xff")
    await until(lambda: not connection._inbox.empty())
    connection._socket.send_bytes = block  # type: ignore[method-assign, assignment]
    served.engine.gate.set()
    await asyncio.wait_for(blocked.wait(), 5)
    await asyncio.sleep(0.05)
    assert served.engine.num_alive == 0


class Sender(asyncio.Protocol):
    """Knows whether asyncio holds it up."""

    is_held_up = False

    def pause_writing(self) -> None:
        self.is_held_up = True

    def resume_writing(self) -> None:
        self.is_held_up = False


async def test_a_device_that_stops_in_the_middle_of_reading_is_dropped() -> None:
    """asyncio holds a sender up from 64 KiB on until 16 are left: in between, any send may wait."""
    ours, device = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    loop = asyncio.get_running_loop()
    transport, sender = await loop.create_connection(Sender, sock=ours)
    transport.write(bytes(100_000))
    with device:
        device.setblocking(False)
        while transport.get_write_buffer_size() > 30_000:
            await loop.sock_recv(device, 1024)
        assert sender.is_held_up
        waiting: Any = SimpleNamespace(send_bytes=lambda _: asyncio.sleep(0.1))
        limits = ConnectionLimits(1.0, 1.0, 0.01, 1)
        others: Any = None
        connection = Connection[TableSlot](waiting, transport, others, others, others, limits)
        await connection._send(b"ten bytes.")
        assert transport.is_closing()


def a_body(**more: Any) -> dict[str, Any]:
    """Of an answer that does not end by itself."""
    bias = {str(END_ID): -100}
    return {"model": "llama", "prompt": [5, 6, 7], "seed": 1, "logit_bias": bias, **more}


async def test_a_client_of_a_stream_that_does_not_read_is_dropped(served: Served) -> None:
    body = a_body(stream=True, logprobs=20, max_tokens=20_000)
    answer = await served.client.post("/v1/completions", json=body)
    assert answer.status == 200
    assert answer.connection is not None and answer.connection.transport is not None
    stop_reading(answer.connection.transport)
    shrink_buffers(served)
    await until(lambda: len(served.edge.completions) == 1)
    await until(lambda: not served.edge.completions)
    gc.collect()
    assert served.engine.num_alive <= 1  # of the last batch, until the next one
    text = await (await served.client.get("/metrics")).text()
    assert 'error_type=""' not in text


async def test_a_completion_that_waits_for_its_client_holds_no_rows(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp import web

    blocked = asyncio.Event()

    async def block(self: web.StreamResponse, data: bytes) -> None:
        blocked.set()
        await asyncio.sleep(10)

    monkeypatch.setattr(web.StreamResponse, "write", block)
    body = a_body(stream=True, logprobs=2, max_tokens=20)
    answer = await served.client.post("/v1/completions", json=body)
    await asyncio.wait_for(blocked.wait(), 5)
    assert len(served.engine.given) >= 2
    await asyncio.sleep(0.05)
    assert served.engine.num_alive == 0
    answer.close()


async def test_a_stream_s_last_words_have_their_time_too(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that takes everything but the end."""
    from aiohttp import web

    write = web.StreamResponse.write
    blocked = asyncio.Event()

    async def write_but_the_last(self: web.StreamResponse, data: bytes) -> None:
        if b"[DONE]" in data:
            blocked.set()
            transport = self._req.transport  # type: ignore[union-attr]
            await until(lambda: transport is None or transport.is_closing())
            raise ConnectionResetError
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", write_but_the_last)
    body = a_body(stream=True, max_tokens=2)
    answer = await served.client.post("/v1/completions", json=body)
    await asyncio.wait_for(blocked.wait(), 5)
    await until(lambda: not served.edge.completions)
    answer.close()


async def test_a_whole_answer_that_nobody_takes_ends_with_its_connection(served: Served) -> None:
    """Megabytes of log probabilities; the completion's place is free before they are sent."""
    body = json.dumps(a_body(logprobs=20, max_tokens=1_500)).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    url = served.client.make_url("/")
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(link, (url.host, url.port))
    await until(lambda: len(connections(served)) == 1)
    shrink_buffers(served)
    await loop.sock_sendall(link, head.encode() + body)
    await until(lambda: len(served.engine.batches) > 2)
    await until(lambda: not served.edge.places)
    await asyncio.sleep(2 * SEND_TIMEOUT_S)
    taken = 0
    try:
        while data := await asyncio.wait_for(loop.sock_recv(link, 1 << 20), 5):
            taken += len(data)
    except ConnectionResetError:
        pass
    link.close()
    assert taken < 1_500 * 400  # the rest was never sent
