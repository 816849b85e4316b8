"""Threads that look whether anybody still waits for them."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from device_runtime.cancellation import in_thread, leave_off_if_cancelled


async def test_what_the_function_gives_or_raises_comes_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_a_cancelled_task_ends_when_its_thread_has_left_off() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        try:
            for _ in range(1000):
                time.sleep(0.01)
                leave_off_if_cancelled()
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(work))
    assert await asyncio.to_thread(begun.wait, 20)
    start_s = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert time.monotonic() - start_s < 5
    await in_thread(leave_off_if_cancelled)  # the next one in this thread goes on


def test_without_a_task_nothing_is_cancelled() -> None:
    leave_off_if_cancelled()
