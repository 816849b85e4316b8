"""The emulated link between real sockets: a TCP proxy that hands bytes on when the model says so.

asyncio runs over select(2) here, whose timeout counts microseconds; that of epoll, asyncio's
choice, counts milliseconds. Bytes go through unread, TLS included; TCP_NODELAY is asyncio's default.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from benchmarks.link.model import Link, Stream

MAX_CONNECTIONS = 400
"""select(2) knows file numbers below 1,024, and a connection takes two."""
EARLY_S = 50e-6
"""What is due within this goes along: one system call for many packets at high rates."""
CONNECT_TIMEOUT_S = 10.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Lateness:
    """How late this process handed bytes on: the emulator's own error."""

    deliveries: int = 0
    sum_s: float = 0.0
    max_s: float = 0.0
    over_1ms: int = 0
    """Deliveries that were more than 1 ms late."""

    def add(self, late_s: float) -> None:
        """One delivery."""
        self.deliveries += 1
        self.sum_s += late_s
        self.max_s = max(self.max_s, late_s)
        self.over_1ms += late_s > 1e-3


class _Way(asyncio.Protocol):
    """One socket of a connection: what it reads is written to the other one, later."""

    def __init__(self, proxy: Proxy) -> None:
        self.transport: asyncio.Transport | None = None
        self.write_ended = False
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._other: _Way | None = None
        self._due: deque[tuple[float, memoryview | None]] = deque()
        """(time, bytes) to hand on; no bytes end the stream, None breaks the connection."""
        self._timer: asyncio.TimerHandle | None = None
        self._read_ended = False
        self._holds: set[str] = set()
        """Why reading is paused: the link's queue is full, or the other socket takes nothing."""

    def start(self, stream: Stream, other: _Way) -> None:
        """Begin to read: the other side is there."""
        self._stream, self._other = stream, other
        if self.transport is not None:
            self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        assert self._stream is not None
        now_s, first, view = self._proxy.now_s(), 0, memoryview(data)
        for arrival in self._stream.send(now_s, len(data)):
            self._due.append((arrival.time_s, view[first : first + arrival.num_bytes]))
            first += arrival.num_bytes
        self._schedule()
        room_s = self._stream.pipe.has_room_s(now_s)
        if room_s > now_s:
            self.hold("queue")
            self._loop.call_later(room_s - now_s, self.let_go, "queue")

    def eof_received(self) -> bool:
        self._read_ended = True
        self._send_last(memoryview(b""))
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        ended_well = self._read_ended and self.write_ended
        if not ended_well and self._other is not None and self._other.transport is not None:
            self._send_last(None)
        self._proxy.forget(self)

    def _send_last(self, piece: memoryview | None) -> None:
        """The end of the stream travels like a packet without payload."""
        if self._stream is not None:
            (arrival,) = self._stream.send(self._proxy.now_s(), 0)
            self._due.append((arrival.time_s, piece))
            self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._due:
            self._timer = self._loop.call_at(self._proxy.start_s + self._due[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now_s = self._proxy.now_s()
        self._proxy.late.add(max(0.0, now_s - self._due[0][0]))
        pieces = []
        while self._due and self._due[0][0] <= now_s + EARLY_S:
            pieces.append(self._due.popleft()[1])
        assert self._other is not None
        self._other.take(pieces)
        self._schedule()

    def take(self, pieces: list[memoryview | None]) -> None:
        """Write to this socket what the link has brought; nothing if it is gone."""
        if self.transport is None or self.transport.is_closing():
            return
        if data := b"".join(piece for piece in pieces if piece):
            self.transport.write(data)
        if pieces[-1] is None:
            self.transport.abort()
        elif not pieces[-1]:
            self.write_ended = True
            try:
                self.transport.write_eof()
            except OSError:  # its owner has reset it, and the loop has yet to hear of that
                self.transport.abort()
        if self._read_ended and self.write_ended:
            self.transport.close()

    def hold(self, reason: str) -> None:
        """Stop reading for this reason."""
        self._holds.add(reason)
        if self.transport is not None:
            self.transport.pause_reading()

    def let_go(self, reason: str) -> None:
        """This reason is gone; read again if it was the last."""
        self._holds.discard(reason)
        if self.transport is not None and not self._holds:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.hold("socket")

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.let_go("socket")


class Proxy:
    """Listens for devices and connects each to the edge over the link, which they share."""

    def __init__(self, link: Link, edge: tuple[str, int]) -> None:
        self.late = Lateness()
        self.start_s = 0.0
        """Of the loop's clock: the model's time 0."""
        self._link = link
        self._edge = edge
        self._ways: set[_Way] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def now_s(self) -> float:
        """The model's time."""
        return asyncio.get_running_loop().time() - self.start_s

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Serve until the block ends; gives the address, with the port that was chosen for 0."""
        loop = asyncio.get_running_loop()
        self.start_s = loop.time()
        server = await loop.create_server(lambda: _Device(self), host, port)
        try:
            address = server.sockets[0].getsockname()
            yield address[0], address[1]
        finally:
            server.close()
            for way in tuple(self._ways):
                if way.transport is not None:
                    way.transport.abort()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.sleep(0)  # lets aborted transports close their sockets

    def admit(self, device: _Way) -> None:
        """A device has connected: connect to the edge for it."""
        if len(self._ways) >= 2 * MAX_CONNECTIONS:
            logger.warning("more than %d connections: one was refused", MAX_CONNECTIONS)
            assert device.transport is not None
            device.transport.abort()
            return
        self._ways.add(device)
        task = asyncio.get_running_loop().create_task(self._connect(device))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, device: _Way) -> None:
        connection = self._link.open(self.now_s())
        loop = asyncio.get_running_loop()
        try:
            coming = loop.create_connection(lambda: _Way(self), *self._edge)
            _, edge = await asyncio.wait_for(coming, CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError) as error:
            logger.warning("cannot reach %s:%d: %s", *self._edge, error)
            if device.transport is not None:
                device.transport.abort()
            return
        self._ways.add(edge)
        if device.transport is None and edge.transport is not None:
            edge.transport.abort()
            return
        device.start(connection.up, edge)
        edge.start(connection.down, device)

    def forget(self, way: _Way) -> None:
        """A socket is closed."""
        self._ways.discard(way)

    def counts(self) -> dict[str, Any]:
        """What has crossed so far, each way, and the emulator's own lateness."""
        return {
            "up": asdict(self._link.up.bill),
            "down": asdict(self._link.down.bill),
            "radio_wake_ups": self._link.radio.wake_ups,
            "late": asdict(self.late),
            "time_s": self.now_s(),
        }


class _Device(_Way):
    """The side that connects to the proxy."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._proxy.admit(self)


def run_precisely(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop whose timers are good to some 0.1 ms."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
