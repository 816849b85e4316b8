"""The proxy around the model: bytes whole and in order, bounded buffers, ends and breaks, counts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from unittest import mock

import pytest

from benchmarks.link.capacity import Capacity, Outage, Rates
from benchmarks.link.model import HEADER_BYTES, Link
from benchmarks.link.proxy import Proxy, _Way
from benchmarks.link.settings import Direction, LinkModel

FAST = Direction(Capacity(Rates.constant(1e9)), delay_s=1e-3, queue_bytes=1 << 16)
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def pair(model: LinkModel) -> AsyncIterator[tuple[Proxy, Ends, Ends]]:
    """A proxy with the device's and the edge's end of one connection through it."""
    arrived: asyncio.Future[Ends] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy = Proxy(Link(model, 1), server.sockets[0].getsockname())
    async with proxy.listening("127.0.0.1", 0) as address:
        device = await asyncio.open_connection(*address)
        edge = await arrived
        try:
            yield proxy, device, edge
        finally:
            for _, writer in (device, edge):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("slow_start", [False, True])
async def test_bytes_arrive_whole_and_in_order_both_ways(slow_start: bool) -> None:
    shaky = replace(FAST, jitter_s=2e-3, loss_ratio=0.01, delay_s=1e-4)
    up, down = (random.Random(i).randbytes(200_000) for i in (1, 2))
    async with pair(LinkModel(shaky, shaky, slow_start=slow_start)) as (proxy, device, edge):
        device[1].write(up)
        edge[1].write(down)
        got_up, got_down = await asyncio.gather(
            edge[0].readexactly(len(up)), device[0].readexactly(len(down))
        )
        assert hashed(got_up) == hashed(up)
        assert hashed(got_down) == hashed(down)
        counts = proxy.counts()
    for way in ("up", "down"):
        bill = counts[way]
        assert bill["payload_bytes"] == 200_000
        assert bill["wire_bytes"] >= 200_000 + HEADER_BYTES * bill["packets"]
    assert counts["late"]["deliveries"] > 0


async def test_a_message_is_not_there_before_its_time() -> None:
    slow = replace(FAST, delay_s=0.03)
    loop = asyncio.get_running_loop()
    async with pair(LinkModel(slow, slow)) as (_, device, edge):
        device[1].write(b"first")  # waits for the handshake, too
        await edge[0].readexactly(5)
        sent_s = loop.time()
        edge[1].write(b"x")
        await device[0].readexactly(1)
        assert loop.time() - sent_s >= 0.029


async def test_a_long_message_comes_no_faster_than_the_rate() -> None:
    slow = replace(FAST, capacity=Capacity(Rates.constant(8e6)), queue_bytes=1 << 20)
    loop = asyncio.get_running_loop()
    async with pair(LinkModel(FAST, slow)) as (_, device, edge):
        edge[1].write(bytes(1448))
        await device[0].readexactly(1448)
        sent_s = loop.time()
        edge[1].write(bytes(40 * 1448))
        await device[0].readexactly(40 * 1448)
        assert loop.time() - sent_s >= 39.5 * 1500 * 8 / 8e6


async def test_an_end_comes_after_the_data_and_leaves_the_other_way_open() -> None:
    async with pair(LinkModel(FAST, FAST)) as (_, device, edge):
        device[1].write(b"question")
        device[1].write_eof()
        assert await asyncio.wait_for(edge[0].read(), 10.0) == b"question"
        edge[1].write(b"answer")
        edge[1].write_eof()
        assert await asyncio.wait_for(device[0].read(), 10.0) == b"answer"


async def test_an_end_for_a_socket_that_was_just_reset_closes_it() -> None:
    transport = mock.create_autospec(asyncio.Transport, instance=True)
    transport.is_closing.return_value = False
    transport.write_eof.side_effect = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
    way = _Way(Proxy(Link(LinkModel(FAST, FAST), 1), ("127.0.0.1", 1)))
    way.connection_made(transport)
    way.take([memoryview(b"last words"), memoryview(b"")])
    transport.write.assert_called_once_with(b"last words")
    transport.abort.assert_called_once_with()


@pytest.mark.parametrize("after_end", [False, True])
async def test_a_broken_connection_breaks_at_the_other_end_too(after_end: bool) -> None:
    async with pair(LinkModel(FAST, FAST)) as (proxy, device, edge):
        device[1].write(b"last words")
        await edge[0].readexactly(10)
        if after_end:
            device[1].write_eof()
            assert await asyncio.wait_for(edge[0].read(), 5.0) == b""
        # With this, closing sends a reset.
        endpoint = device[1].get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        device[1].transport.abort()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(edge[0].read(), 5.0) == b""
        for _ in range(500):
            if not proxy._ways:
                break
            edge[1].write(b"anybody there?")  # after an end, only writing tells
            await asyncio.sleep(0.01)
        assert not proxy._ways  # both sockets are closed, not only ended


async def test_a_sender_is_held_back_when_the_queue_is_full() -> None:
    blocked = replace(FAST, capacity=Capacity(Rates.constant(1e9), (Outage(0.0, 1e6),)))
    async with pair(LinkModel(blocked, FAST)) as (proxy, device, _):
        device[1].transport.set_write_buffer_limits(0)
        device[1].write(bytes(30 << 20))
        for _ in range(50):  # as long as the proxy might take more
            await asyncio.sleep(2e-3)
        taken = proxy.counts()["up"]["payload_bytes"]
        assert 0 < taken <= (1 << 16) + (1 << 18)  # the queue and one read of asyncio
        device[1].transport.abort()


async def test_a_receiver_that_does_not_read_holds_the_sender_back() -> None:
    async with pair(LinkModel(FAST, FAST)) as (proxy, device, edge):
        edge[0]._transport.pause_reading()  # type: ignore[attr-defined]
        device[1].transport.set_write_buffer_limits(0)
        device[1].write(bytes(64 << 20))
        before = -1
        while before != (taken := proxy.counts()["up"]["payload_bytes"]):
            before = taken
            await asyncio.sleep(0.05)
        assert taken < 48 << 20  # sockets' own buffers are large; what the proxy keeps is not
        device[1].transport.abort()


async def test_an_edge_that_is_not_there_closes_the_connection() -> None:
    unused = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    address = unused.sockets[0].getsockname()
    unused.close()
    await unused.wait_closed()
    proxy = Proxy(Link(LinkModel(FAST, FAST), 1), address)
    async with proxy.listening("127.0.0.1", 0) as listening:
        reader, writer = await asyncio.open_connection(*listening)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()


async def test_every_device_gets_its_own_bytes_and_its_end_reaches_the_edge() -> None:
    ended: asyncio.Queue[int] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        num_bytes = 0
        while data := await reader.read(1 << 16):
            num_bytes += len(data)
            writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        ended.put_nowait(num_bytes)

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        proxy = Proxy(Link(LinkModel(FAST, FAST), 1), server.sockets[0].getsockname())
        async with proxy.listening("127.0.0.1", 0) as address:
            ends = [await asyncio.open_connection(*address) for _ in range(3)]
            for number, (_, writer) in enumerate(ends):
                writer.write(bytes([number]) * 50_000)
            for number, (reader, writer) in enumerate(ends):
                assert await reader.readexactly(50_000) == bytes([number]) * 50_000
                writer.close()
                await writer.wait_closed()
            assert [await asyncio.wait_for(ended.get(), 5.0) for _ in ends] == [50_000] * 3
