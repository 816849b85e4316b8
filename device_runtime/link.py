"""The way to the edge: one WebSocket, one message up, one down; a lost connection is mended.

The session object decides what the bytes mean; this module only moves them, counts them, and after
a loss, or a refusal that may pass, opens the session again and repeats what was in flight (rounds
are idempotent).
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Literal, TypeVar

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from device_runtime.edge_errors import EdgeLostError, unreachable
from device_runtime.edge_options import session_url
from device_runtime.measured import Handshake
from device_runtime.protocol.device_session import DeviceSession
from device_runtime.protocol.errors import ErrorCode, RefusedError, TandemError
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES, refusal

T = TypeVar("T")

CLOSE_TIMEOUT_S = 2.0
"""How long an edge may take to answer our closing of a connection."""

_MAY_PASS = (EdgeLostError, RefusedError)
_PASSING = frozenset(
    (ErrorCode.BUSY, ErrorCode.DRAINING, ErrorCode.INTERNAL, ErrorCode.WRONG_PREFIX)
)
"""Refusals after which trying again can help."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Traffic:
    """What crossed the link: payload bytes of WebSocket messages, and how many messages."""

    bytes_up: int = 0
    bytes_down: int = 0
    frames_up: int = 0
    frames_down: int = 0

    def since(self, earlier: Traffic) -> Traffic:
        """What has crossed since an earlier copy."""
        return Traffic(
            *(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True))
        )


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where the edge is and how long to wait for it."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | Literal[True] = True
    """What is trusted (`edge_options.trusted`)."""
    patience_s: float = 30.0
    """How long a lost or busy edge is tried again before EdgeLostError."""
    waits_at_first: bool = False
    """Whether an edge that was never there is waited for as a lost one is."""
    heartbeat_s: float = 20.0
    """Silence after which the edge is pinged; it is lost after half as much again without a sign."""


class EdgeLink:
    """Carries the messages of one session; an async context manager."""

    def __init__(self, settings: LinkSettings, session: DeviceSession) -> None:
        self.traffic = Traffic()
        self.session = session
        self.handshake = Handshake(0.0, 0, 0)
        """Of the connection in use."""
        self._settings = settings
        self._url = session_url(settings.url)
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._in_step = False
        """Whether the connection stands and no answer is owed on it."""

    async def __aenter__(self) -> EdgeLink:
        headers = {}
        if self._settings.token:
            headers["Authorization"] = f"Bearer {self._settings.token}"
        self._http = aiohttp.ClientSession(headers=headers)
        try:
            # A wrong address should be told at once, unless somebody wants to wait.
            passing = _MAY_PASS if self._settings.waits_at_first else (RefusedError,)
            await self._patiently(self._connect, self._settings.patience_s, passing)
        except BaseException:
            await self._close_socket()
            await self._http.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._http is not None
        if self._socket is not None and not self._socket.closed:
            try:
                await self.send(self.session.close())
            except EdgeLostError:
                logger.debug("the edge was gone before the session was closed")
        await self._close_socket()
        await self._http.close()

    async def _close_socket(self) -> None:
        """Let go of the connection, whatever state it is in."""
        if self._socket is not None:
            await self._socket.close()

    async def exchange(self, data: bytes) -> bytes:
        """The answer to one message, asked for until it comes or the patience ends (EdgeLostError).

        RefusedError where asking again cannot help.
        """

        async def once() -> bytes:
            await self._connect()
            return await self._ask(data)

        return await self._patiently(once, self._settings.patience_s)

    @property
    def is_patient(self) -> bool:
        """Whether a connection that was lost is opened again at all."""
        return self._settings.patience_s > 0

    async def reopen(self) -> None:
        """Connect again, however long it takes, and bring the edge to where this side stands."""
        self._in_step = False
        await self._patiently(self._connect, math.inf)

    async def _patiently(
        self,
        step: Callable[[], Awaitable[T]],
        patience_s: float,
        passing: tuple[type[TandemError], ...] = _MAY_PASS,
    ) -> T:
        """What the step gives, tried again after errors that pass for so long after the first one.

        A patience of 0 s means one try.
        """
        since_s, pause_s = math.inf, 0.0
        while True:
            try:
                found = await step()
            except passing as error:
                if isinstance(error, RefusedError) and error.code not in _PASSING:
                    raise
                what = error.what if isinstance(error, EdgeLostError) else str(error)
                since_s = min(since_s, time.monotonic())
                left_s = since_s + patience_s - time.monotonic()
                asked_s = getattr(error, "retry_after_s", 0.0)
                if asked_s >= left_s:
                    raise EdgeLostError(what, _gave_up(patience_s, left_s)) from None
                if not pause_s:
                    logger.warning("%s; trying again", what)
            else:
                if since_s < math.inf:
                    logger.warning("going on after %.1f s", time.monotonic() - since_s)
                return found
            await asyncio.sleep(max(asked_s, min(pause_s, left_s)))
            pause_s = min(max(0.1, 2 * pause_s), 5.0)

    async def _connect(self) -> None:
        """If need be, open the session again and tell the edge what it lost."""
        if not self._in_step:
            await self._open()
        if self.session.must_restate:
            self.session.receive_begun(await self._ask(self.session.begin_again()))

    async def _ask(self, data: bytes) -> bytes:
        """One message up, its answer down; RefusedError for a refusal."""
        self._in_step = False  # until the answer is here
        await self.send(data)
        answer = await self.receive()
        refused = refusal(answer)
        if refused is None:
            self._in_step = True
            return answer
        if refused.code is ErrorCode.WRONG_PREFIX:
            self.session.forget_edge()
        # After any other refusal that may pass the edge ends the connection.
        self._in_step = refused.code in (ErrorCode.BUSY, ErrorCode.WRONG_PREFIX)
        raise RefusedError(refused.code, refused.retry_after_s)

    async def send(self, data: bytes) -> None:
        """One message up; EdgeLostError where the connection has ended."""
        assert self._socket is not None
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError):
            while True:  # up to why the edge closed the connection, which may still lie unread
                await self.receive()
        self.traffic.bytes_up += len(data)
        self.traffic.frames_up += 1

    async def receive(self) -> bytes:
        """One message down; EdgeLostError where the connection has ended, with the edge's reason."""
        assert self._socket is not None
        message = await self._socket.receive()
        if message.type is not WSMsgType.BINARY:
            self._in_step = False
            url = self._settings.url
            if (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.GOING_AWAY):
                raise EdgeLostError(f"the edge at {url} shut down in order")
            raise EdgeLostError(f"the connection to {url} broke")
        data: bytes = message.data
        self.traffic.bytes_down += len(data)
        self.traffic.frames_down += 1
        return data

    async def _open(self) -> None:
        """Connect and shake hands."""
        assert self._http is not None
        await self._close_socket()
        try:
            self._socket = await self._http.ws_connect(
                self._url, compress=0, max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                heartbeat=self._settings.heartbeat_s, ssl=self._settings.tls,
            )  # fmt: skip
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            has_token = bool(self._settings.token)
            raise unreachable(self._settings.url, error, has_token=has_token) from None
        hello, asked_s = self.session.hello(), time.monotonic()
        await self.send(hello)
        welcome = await self.receive()
        self.handshake = Handshake(time.monotonic() - asked_s, len(hello), len(welcome))
        self.session.receive_welcome(welcome)
        self._in_step = True


def _gave_up(patience_s: float, left_s: float) -> str:
    """Of all the patience, or of what is left of it before an edge that asks for more."""
    if left_s > 0:
        left = f"only {left_s:.1f} s are left of --edge-patience {patience_s:g}"
        return f"{left}; raise it to wait longer"
    return f"gave up after {patience_s:g} s (--edge-patience)" if patience_s else ""
