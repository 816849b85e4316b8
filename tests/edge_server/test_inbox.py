"""What waits for its answer is bounded by number and by size."""

from __future__ import annotations

import asyncio

import pytest

from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES
from edge_server.endings import OverError
from edge_server.inbox import MAX_BYTES, MAX_MESSAGES, Inbox


async def test_messages_come_out_in_order_with_the_time_they_came() -> None:
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    inbox.put(b"first", 1.0)
    inbox.put(None, 2.0)
    inbox.put(b"third", 3.0)
    first, came_s = await waiting
    assert first == b"first"
    text, later_s = await inbox.get()
    assert text is None and came_s <= later_s
    assert inbox.get_nowait() == b"third"
    assert inbox.empty()


async def test_a_text_message_is_refused_where_it_is_taken() -> None:
    inbox = Inbox()
    inbox.put(None, 1.0)
    with pytest.raises(RemoteError) as refused:
        inbox.get_nowait()
    assert refused.value.code is ErrorCode.MALFORMED


@pytest.mark.parametrize(
    ("size", "num_fitting"), [(1, MAX_MESSAGES), (MAX_MESSAGE_BYTES, 1), (MAX_BYTES // 3, 3)]
)
async def test_too_much_ends_the_connection_and_room_comes_back(
    size: int, num_fitting: int
) -> None:
    inbox, message = Inbox(), bytes(size)
    for _ in range(3):
        for _ in range(num_fitting):
            inbox.put(message, 1.0)
        with pytest.raises(OverError):
            inbox.put(message, 1.0)
        await inbox.get()
        inbox.put(message, 1.0)
        while not inbox.empty():
            inbox.get_nowait()
