"""One WebSocket connection: messages in, a session's answers out.

A reader takes messages as they come, so that pings and a vanished client are noticed while a job
runs; a worker answers them one after the other. What waits between the two is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import State, Step
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import Cancel, Close, Hello, Kind, Refusal, decode, encode
from edge_server.auth import Identity
from edge_server.endings import OverError, cancelled, deadline, idle, reason_of
from edge_server.failures import describe
from edge_server.front import PACE_S, Front
from edge_server.inbox import Inbox, binary
from edge_server.job_times import JobTimes
from edge_server.logs import SESSION
from edge_server.scheduler import BusyError
from edge_server.sessions import Held, Registry

S = TypeVar("S")

NEVER_WAITS_BYTES = 1 << 14
"""Unsent bytes with which a send does not wait for the client, so that it needs no clock: asyncio holds
up a sender from four times as many on, until so few are left."""

HASHED_AT_ONCE = 1024
"""Tokens hashed in one go, about a millisecond: a long prompt must not hold up other sessions."""

TAKEN_OVER = 4001
"""Close code: the same session goes on over a newer connection."""

SHUTTING_DOWN = OverError(WSCloseCode.GOING_AWAY, b"the edge is shutting down")
TOKEN_GONE = OverError(WSCloseCode.POLICY_VIOLATION, b"the bearer token is no longer valid")

_NEEDS_JOB = frozenset((Kind.BEGIN, Kind.ROUND, Kind.MORE, Kind.STREAM))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Times and counts after which a connection is closed."""

    hello_timeout_s: float
    idle_timeout_s: float
    send_timeout_s: float
    max_refusals: int


class Connection(Generic[S]):
    """Serves the session that the first message opens or resumes."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        identity: Identity,
        registry: Registry[S],
        front: Front[S],
        limits: ConnectionLimits,
    ) -> None:
        """The socket must have been prepared on the transport."""
        self._socket = socket
        self._transport = transport
        self._identity = identity
        self._registry = registry
        self._front = front
        self._limits = limits
        self._inbox = Inbox()
        self._held: Held[S] | None = None
        self._num_refusals = 0
        self._leaving: OverError | None = None
        """Why nothing new is begun."""
        self._idle = asyncio.Event()
        """Set while no message is being answered."""
        self._idle.set()
        self._quiet_since_s = time.monotonic()
        """When the last message came, or was answered."""
        self._over: OverError | None = None
        """Set from outside: why the connection ends."""
        self._worker: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Until either side closes the connection."""
        self._worker = asyncio.create_task(self._answer_all())
        period_s = min(self._limits.hello_timeout_s, self._limits.idle_timeout_s)
        watch = idle(self._quiet_left_s, period_s)  # not a timer for each message: that is slower
        tasks = self._worker, *map(asyncio.create_task, (self._read_all(), watch))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            over = self._over or next(filter(None, map(reason_of, tasks)), None)
            if over is not None:
                with contextlib.suppress(ConnectionError):
                    await self._socket.close(code=over.code, message=over.reason)
        finally:
            try:
                await cancelled(*tasks)
            finally:  # aiohttp cancels this, too, when the client goes
                if self._held is not None:
                    self._registry.detach(self._held, self)

    async def lose_session(self) -> None:
        self._held = None
        self._over = OverError(TAKEN_OVER, b"the session goes on elsewhere")
        assert self._worker is not None
        await cancelled(self._worker)

    async def drain(self, timeout_s: float, why: OverError = SHUTTING_DOWN) -> None:
        """Finish what is being answered, within this time, then end; nothing new is begun."""
        self._leaving = why
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            logger.warning("session %d: not done in time", self._number)
        self._over = why
        if self._worker is not None:
            await cancelled(self._worker)

    # the reader

    async def _read_all(self) -> None:
        """Messages into the inbox; ends when the client has gone."""
        while True:
            message = await self._socket.receive()
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                return
            self._quiet_since_s = time.monotonic()
            data = message.data if message.type is WSMsgType.BINARY else None
            self._inbox.put(data, self._quiet_since_s)

    def _quiet_left_s(self) -> float:
        """How long the client may still say nothing; all the time there is while it waits for us."""
        limits = self._limits
        limit_s = limits.idle_timeout_s if self._held is not None else limits.hello_timeout_s
        return limit_s - (time.monotonic() - self._quiet_since_s if self._idle.is_set() else 0.0)

    # the worker

    async def _answer_all(self) -> None:
        while True:
            data, received_s = await self._inbox.get()
            self._idle.clear()
            try:
                await self._answer(data, received_s)
            finally:
                self._quiet_since_s = time.monotonic()
                self._idle.set()

    async def _answer(self, data: bytes | None, received_s: float) -> None:
        """Answer one message, or refuse it and go on."""
        try:
            await self._receive(data, received_s)
        except RemoteError as error:
            await self._refuse(error)
            return
        except (OverError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 -- one session's bug must not end the others
            logger.error("session %d: %s", self._number, describe(error))  # noqa: TRY400
        else:
            self._num_refusals = 0
            return
        # Out of the handler: the error may hold the rows of a batch, and a slow reader block the send.
        await self._send(encode(Refusal(ErrorCode.INTERNAL)))
        raise OverError(WSCloseCode.INTERNAL_ERROR, b"internal error")

    async def _receive(self, received: bytes | None, received_s: float) -> None:
        data = binary(received)
        if self._leaving:
            raise RemoteError(ErrorCode.DRAINING)
        if self._held is None:
            self._held = await self._hold(data)
        if data[1:2] and data[1] in _NEEDS_JOB:
            self._front.admit(self._identity, begins=data[1] == Kind.BEGIN)
        while self._held.session.tokens.hash_some(HASHED_AT_ONCE):  # noqa: ASYNC110
            await asyncio.sleep(0)  # other sessions' turn
        await self._finish(self._held, self._held.session.receive(data), data, received_s)

    async def _hold(self, data: bytes) -> Held[S]:
        """The session that the first message, a hello, opens or resumes."""
        hello = decode(data)
        if isinstance(hello, Close):
            raise OverError(WSCloseCode.OK)
        if not isinstance(hello, Hello):
            raise RemoteError(ErrorCode.UNEXPECTED_MESSAGE, f"{type(hello).__name__} before Hello")
        held = self._registry.find(hello.resume_token, self._identity)
        if held is None:
            held = self._registry.open(self._identity, self)
            SESSION.set(held.number)
            logger.info("session %d: opened by %r", held.number, hello.client)
            return held
        SESSION.set(held.number)
        previous, held.owner, self._held = held.owner, self, held
        if previous is not None:
            await previous.lose_session()
        held.session.resume()
        logger.info("session %d: resumed", held.number)
        return held

    async def _finish(self, held: Held[S], step: Step, data: bytes, received_s: float) -> None:
        """Send, run and commit until the message is answered."""
        session = held.session
        times: JobTimes | None = None
        goes_on = True
        while goes_on:
            if step.reply is not None:
                sent_s = time.monotonic()
                await self._send(step.reply)
                if times is not None:
                    self._front.trace.answered(held.number, data[1], received_s, times, sent_s)
            if step.job is None:
                break
            if session.state is State.STREAMING:
                await self._pace()
            times = JobTimes()
            result = await self._front.run(held.place, step.job, self._identity, times)
            errors = self._hear(session)
            goes_on = session.state is not State.CLOSED
            if goes_on:
                step = session.commit(result())
                self._front.answered(held.tally, step.outcome)
                self._registry.answered(held)
            # It may hold the rows of the batch, and a slow reader may block the next send.
            del result
            for error in errors:
                await self._refuse(error)
        if session.state is State.CLOSED:
            self._held = None
            self._registry.forget(held)
            raise OverError(WSCloseCode.OK)

    async def _pace(self) -> None:
        """A stream whose client is in debt goes on at its rate; what the device says ends the wait."""
        while wait_s := self._front.debt_s(self._identity):
            if self._leaving or not self._inbox.empty():
                break
            await asyncio.sleep(min(wait_s, PACE_S))

    def _hear(self, session: EdgeSession) -> list[RemoteError]:
        """While a stream runs: take what the device says, in particular Cancel and Close."""
        errors: list[RemoteError] = []
        if self._leaving and session.state is State.STREAMING:
            session.receive(encode(Cancel()))
        while session.state is State.STREAMING and not self._inbox.empty():
            try:
                session.receive(self._inbox.get_nowait())
            except RemoteError as error:
                errors.append(error)
        return errors

    # answers

    async def _refuse(self, error: RemoteError) -> None:
        """Tell the client the code, and nothing else; end the connection after too many."""
        logger.info("session %d: refused with %s", self._number, error.code.name)
        retry_after_s = 0.0
        if isinstance(error, BusyError):
            self._front.refused(error)
            retry_after_s = error.retry_after_s
        await self._send(encode(Refusal(error.code, retry_after_s)))
        if error.code is not ErrorCode.BUSY:  # the client did nothing wrong
            self._num_refusals += 1
        if self._leaving:
            raise self._leaving
        if self._num_refusals >= self._limits.max_refusals:
            raise OverError(WSCloseCode.POLICY_VIOLATION, b"too many refused messages")

    async def _send(self, data: bytes) -> None:
        """ConnectionError if the client is gone or does not take the message in time."""
        transport = self._transport
        if transport and transport.get_write_buffer_size() + len(data) <= NEVER_WAITS_BYTES:
            await self._socket.send_bytes(data)
            return
        with deadline(self._transport, self._limits.send_timeout_s, self._is_slow):
            await self._socket.send_bytes(data)

    def _is_slow(self) -> None:
        logger.info("session %d: the client does not take its answers", self._number)

    @property
    def _number(self) -> int:
        """For logs; 0 before a session is open."""
        return self._held.number if self._held is not None else 0
