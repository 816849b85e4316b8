"""Messages of one connection that wait for their answer: few, and not too large together."""

from __future__ import annotations

import asyncio

from aiohttp import WSCloseCode

from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES
from edge_server.endings import OverError

MAX_MESSAGES = 8
"""A device sends one or two."""
MAX_BYTES = MAX_MESSAGE_BYTES + (1 << 16)
"""Of all of them: one may be as large as messages get."""


class Inbox:
    """A queue that closes the connection instead of growing."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[bytes | None, float]] = asyncio.Queue(MAX_MESSAGES)
        """And when each came."""
        self._num_bytes = 0

    def put(self, message: bytes | None, came_s: float) -> None:
        """None stands for a text message; came_s: when it came. OverError where too much waits."""
        size = len(message or b"")
        if self._messages.full() or self._num_bytes + size > MAX_BYTES:
            raise OverError(WSCloseCode.POLICY_VIOLATION, b"too many messages")
        self._num_bytes += size
        self._messages.put_nowait((message, came_s))

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._messages.empty()

    async def get(self) -> tuple[bytes | None, float]:
        """The oldest, as soon as there is one, and when it came."""
        return self._taken(await self._messages.get())

    def get_nowait(self) -> bytes:
        """The oldest that waits; RemoteError for a text message."""
        return binary(self._taken(self._messages.get_nowait())[0])

    def _taken(self, entry: tuple[bytes | None, float]) -> tuple[bytes | None, float]:
        self._num_bytes -= len(entry[0] or b"")
        return entry


def binary(message: bytes | None) -> bytes:
    """The bytes of a message; RemoteError for a text message."""
    if message is None:
        raise RemoteError(ErrorCode.MALFORMED, "a text message")
    return message
