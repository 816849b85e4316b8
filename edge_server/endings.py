"""How connections end: why, by whom, and what is waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import WSCloseCode

from edge_server.failures import describe

logger = logging.getLogger(__name__)


class OverError(Exception):
    """The connection ends, with this close code."""

    def __init__(self, code: int, reason: bytes = b"") -> None:
        self.code = code
        self.reason = reason
        super().__init__(code)


@contextmanager
def deadline(
    transport: asyncio.Transport | None,
    timeout_s: float,
    on_late: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within: a client that does not take what is sent to it in time loses its connection."""

    def abort() -> None:
        on_late()
        if transport is not None:
            transport.abort()

    watch = asyncio.get_running_loop().call_later(timeout_s, abort)
    try:
        yield
    finally:
        watch.cancel()


async def idle(left_s: Callable[[], float], period_s: float) -> None:
    """OverError once the client has no time left to be silent; asked anew after each period."""
    while (wait_s := left_s()) > 0:  # noqa: ASYNC110 -- no event for every message
        await asyncio.sleep(min(wait_s, period_s))
    raise OverError(WSCloseCode.POLICY_VIOLATION, b"idle for too long")


def reason_of(task: asyncio.Task[None]) -> OverError | None:
    """Why this task ended the connection; None if it did not, or there is nobody left to tell."""
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    if error is None or isinstance(error, (OverError, ConnectionError)):
        return error if isinstance(error, OverError) else None
    logger.error("connection: %s", describe(error))
    return OverError(WSCloseCode.INTERNAL_ERROR, b"internal error")


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they are over, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: it was reported already, or came of the cancelling
