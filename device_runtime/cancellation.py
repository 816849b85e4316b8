"""Work in a thread that ends soon after the task that waits for it was cancelled.

A thread cannot be stopped from outside: it has to look. A slow board reads a long prompt for half a
minute, and neither Ctrl-C nor SIGTERM may wait for that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar, cast

T = TypeVar("T")
P = ParamSpec("P")

_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class _LeftOffError(Exception):
    """Unwinds a thread whose result nobody wants any more."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread, for functions that call `leave_off_if_cancelled` now and then.

    Cancelled, it waits until the function has left off: what that worked on is free again.
    """
    cancelled = threading.Event()

    def work() -> T | None:
        _cancelled.set(cancelled)
        try:
            return function(*args, **kwargs)
        except _LeftOffError:
            return None

    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(None, copy_context().run, work)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([running])
        raise
    return cast("T", running.result())


def leave_off_if_cancelled() -> None:
    """End this thread's work here if the task that waits for it was cancelled."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise _LeftOffError
