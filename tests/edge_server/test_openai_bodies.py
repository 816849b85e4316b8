"""The largest bodies that a client may send, made to cost as much as they can."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from edge_server import openai_bodies
from edge_server.http_errors import ApiError, from_validation
from edge_server.openai_bodies import check_counts, parsed
from edge_server.openai_requests import MAX_BODY_BYTES, ChatRequest, CompletionRequest

CONTEXT_LEN = 131_072
MOST_ERRORS = 8300
"""Two for each key that is counted, and a few."""


Body = Callable[[int], bytes]
"""Size → a body of about that size, and no larger."""


def many(head: str, item: str, tail: str) -> Body:
    """As many items as the size holds."""

    def body(size: int) -> bytes:
        count = (size - len(head) - len(tail)) // (len(item) + 1)
        return (head + ",".join([item] * count) + tail).encode()

    return body


def many_keys(head: str, value: str, tail: str) -> Body:
    def body(size: int) -> bytes:
        count = (size - len(head) - len(tail)) // (len(value) + 9)
        return (head + ",".join(f'"{i:x}":{value}' for i in range(count)) + tail).encode()

    return body


def filled(head: str, item: bytes, tail: str = "") -> Body:
    return lambda size: head.encode() + item * (size - len(head) - len(tail)) + tail.encode()


TEXT, CHAT = '{"model":"m","prompt":"x",', '{"model":"m","messages":['
PROMPT, USER = '{"model":"m","prompt":[', '{"role":"user","content":['
BODIES: dict[str, tuple[Any, Body]] = {
    "prompt of strings": (CompletionRequest, many(PROMPT, '"a"', "]}")),
    "prompt of lists": (CompletionRequest, many(PROMPT, "[]", "]}")),
    "prompt of ids": (CompletionRequest, many(PROMPT, "1", "]}")),
    "prompt of bad ids": (CompletionRequest, many(PROMPT, "-1", "]}")),
    "unknown keys": (CompletionRequest, many_keys(TEXT, "1", "}")),
    "the same key": (CompletionRequest, many(TEXT, '"n":1', "}")),
    "biases": (CompletionRequest, many_keys(TEXT + '"logit_bias":{', '"a"', "}}")),
    "stops": (CompletionRequest, many(TEXT + '"stop":[', "1", "]}")),
    "stream options": (CompletionRequest, many_keys(TEXT + '"stream_options":{', "1", "}}")),
    "messages": (ChatRequest, many(CHAT, "1", "]}")),
    "keys of a message": (ChatRequest, many_keys(CHAT + '{"role":"user",', "1", "}]}")),
    "parts": (ChatRequest, many(CHAT + USER, "1", "]}]}")),
    "parts of parts": (ChatRequest, many(CHAT, USER + ",".join(["1"] * 1000) + "]}", "]}")),
    "quotes": (CompletionRequest, filled("", b'"')),
    "backslashes": (CompletionRequest, filled('{"prompt":"', b"\\", '"}')),
    "depth": (CompletionRequest, filled('{"prompt":', b"[")),
}


@pytest.fixture
def num_errors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each body that got as far as being checked value by value."""
    found = []

    def counted(error: ValidationError) -> ApiError:
        found.append(error.error_count())
        return from_validation(error)

    monkeypatch.setattr(openai_bodies, "from_validation", counted)
    return found


@pytest.mark.parametrize("name", BODIES)
async def test_the_largest_bodies_are_read_quickly(name: str, num_errors: list[int]) -> None:
    """Some of these took up to 24 seconds, on the one thread that all share."""
    kind, of_size = BODIES[name]
    for share in (1, 30, 100, 1000):
        body = of_size(MAX_BODY_BYTES // share)
        start_s = time.process_time()
        try:
            await parsed(body, kind, num_ids=384, context_len=CONTEXT_LEN)
            refused = False
        except ApiError as error:
            refused = error.status == 400
        assert time.process_time() - start_s < 1.0
        assert refused or share > 1
    assert all(count <= MOST_ERRORS for count in num_errors)


def message(**more: Any) -> dict[str, Any]:
    return {"role": "user", "content": "x", **more}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"prompt": 'say "a", [b], {c}: ' * 150_000}),
        (CompletionRequest, {"prompt": "\\" * 1_000_000 + '"'}),
        (CompletionRequest, {"prompt": "ä\n" * 300_000}),
        (CompletionRequest, {"prompt": [7] * (CONTEXT_LEN - 1)}),
        (ChatRequest, {"messages": [message(content='"a": 1, ' * 300)] * 1024}),
        (
            ChatRequest,
            {"messages": [message(content=[{"type": "text", "text": ","}] * 8)] * 100},
        ),
        (CompletionRequest, {"prompt": "x", "logit_bias": {str(i): 1 for i in range(384)}}),
    ],
)
async def test_what_is_meant_is_read_however_large(kind: Any, body: dict[str, Any]) -> None:
    data = json.dumps({"model": "m", **body}).encode()
    asked = await parsed(data, kind, num_ids=384, context_len=CONTEXT_LEN)
    assert isinstance(asked, kind)


async def test_large_bodies_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    to_thread = asyncio.to_thread

    async def watched(work: Any, *more: Any) -> Any:
        moved.append(work)
        return await to_thread(work, *more)

    monkeypatch.setattr(asyncio, "to_thread", watched)
    for length, expected in ((10, 0), (1 << 20, 1)):
        body = json.dumps({"model": "m", "prompt": "x" * length}).encode()
        await parsed(body, CompletionRequest, num_ids=384, context_len=256)
        assert len(moved) == expected


def test_strings_hide_what_is_in_them() -> None:
    check_counts(b'{"a":"[,:{[,,,,,,"}', max_values=1)
    check_counts(b'{"a":"\\",,,,\\\\"}', max_values=1)
    for body in (b'{"a":[1,1]}', b'{"a\\\\":[[]]}', b'{"a\\"":[{}]}'):
        with pytest.raises(ApiError, match="values"):
            check_counts(body, max_values=2)
