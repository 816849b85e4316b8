"""The way to the edge: one WebSocket, one message up, one down; a lost connection is mended.

The session object decides what the bytes mean; this module only moves them, counts them, and after
a loss opens the session again and repeats what was in flight (rounds are idempotent).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import astuple, dataclass
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from device_runtime.measured import Handshake
from device_runtime.protocol.device_session import DeviceSession
from device_runtime.protocol.errors import ConfigError, ErrorCode, RefusedError, TandemError
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES, refusal_code

SESSION_PATH = "/v1/session"
CLOSE_TIMEOUT_S = 2.0
"""How long an edge may take to answer our closing of a connection."""

logger = logging.getLogger(__name__)


class EdgeLostError(TandemError, ConnectionError):
    """The edge cannot be reached, or no longer answers."""


def may_pass(error: TandemError) -> bool:
    """Whether trying again later can help."""
    if isinstance(error, RefusedError):
        return error.code in (ErrorCode.BUSY, ErrorCode.DRAINING, ErrorCode.INTERNAL)
    return isinstance(error, EdgeLostError)


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
    ca_file: str | None = None
    patience_s: float = 30.0
    """How long a lost edge is tried again before EdgeLostError."""
    answer_timeout_s: float = 120.0
    """How long one answer may take."""


def session_url(url: str) -> str:
    """ws:// or wss:// URL of the session route from what a user types."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.hostname:
        raise ConfigError(f"{url!r} is no edge URL; expected http(s)://HOST:PORT")
    path = parts.path.rstrip("/")
    if not path.endswith(SESSION_PATH):
        path += SESSION_PATH
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, "", ""))


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

    async def __aenter__(self) -> EdgeLink:
        headers = {}
        if self._settings.token:
            headers["Authorization"] = f"Bearer {self._settings.token}"
        self._http = aiohttp.ClientSession(headers=headers)
        try:
            await self._open()
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
        """One message up, its answer down; repeated on a new connection if this one is lost."""
        try:
            await self.send(data)
            answer = await self.receive()
        except EdgeLostError as loss:
            logger.warning("%s; trying again", loss)
            await self.reopen()
            await self.send(data)
            answer = await self.receive()
        if refusal_code(answer) is ErrorCode.WRONG_PREFIX:
            logger.warning("the edge lost the text so far; sending all of it")
            self.session.forget_edge()
            await self.send(self.session.begin_again())
            self.session.receive_begun(await self.receive())
            await self.send(data)
            answer = await self.receive()
        return answer

    async def reopen(self) -> None:
        """Connect again within the patience and bring the edge to where this side stands."""
        deadline = time.monotonic() + self._settings.patience_s
        delay_s = 0.1
        while True:
            try:
                await self._open()
                if self.session.generating and not self.session.facts.resumed:
                    await self.send(self.session.begin_again())
                    self.session.receive_begun(await self.receive())
                return
            except (EdgeLostError, RefusedError) as error:
                if not may_pass(error) or time.monotonic() + delay_s > deadline:
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 5.0)

    async def send(self, data: bytes) -> None:
        """One message up."""
        assert self._socket is not None
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise EdgeLostError(f"the connection to {self._settings.url} broke ({error})") from None
        self.traffic.bytes_up += len(data)
        self.traffic.frames_up += 1

    async def receive(self) -> bytes:
        """One message down."""
        assert self._socket is not None
        try:
            message = await self._socket.receive(timeout=self._settings.answer_timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            await self._socket.close()
            raise EdgeLostError(
                f"{self._settings.url} gave no answer within {self._settings.answer_timeout_s:g} s"
            ) from None
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise EdgeLostError(f"{self._settings.url} closed the connection")
        data: bytes = message.data
        self.traffic.bytes_down += len(data)
        self.traffic.frames_down += 1
        return data

    async def _open(self) -> None:
        """Connect and shake hands."""
        assert self._http is not None
        await self._close_socket()
        context = None
        if self._settings.ca_file:
            context = ssl.create_default_context(cafile=self._settings.ca_file)
        try:
            self._socket = await self._http.ws_connect(
                self._url, compress=0, max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                ssl=context if context is not None else True,
            )  # fmt: skip
        except aiohttp.WSServerHandshakeError as error:
            raise _refused_upgrade(self._settings.url, error.status) from None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise EdgeLostError(
                f"no edge answers at {self._settings.url} ({error}); "
                "is `tandem edge` running there, and is the port open?"
            ) from None
        hello, asked_s = self.session.hello(), time.monotonic()
        await self.send(hello)
        welcome = await self.receive()
        self.handshake = Handshake(time.monotonic() - asked_s, len(hello), len(welcome))
        self.session.receive_welcome(welcome)


def _refused_upgrade(url: str, status: int) -> TandemError:
    if status in (401, 403):
        return ConfigError(f"{url} wants a valid bearer token; pass it with --token-file")
    if status == 503:
        return EdgeLostError(f"{url} is at its limit or shutting down; try again later")
    return ConfigError(f"{url} is no Tandem edge: it answered HTTP {status} to {SESSION_PATH}")
