"""From the bytes of a request's body to a checked request, in a time that its size bounds.

Every client shares one event loop with all sessions, and a parser holds it for as long as it runs. A
million wrong values would each get an error, written out in full; so values and keys are counted
first, by searches that take a few milliseconds for the largest body, and lists fail with their first
wrong item (`openai_requests`).
"""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from device_runtime.protocol.errors import ConfigError
from edge_server.http_errors import ApiError, from_validation
from edge_server.openai_requests import ChatRequest, CompletionRequest

Request = CompletionRequest | ChatRequest

MAX_KEYS = 4096
"""Of all objects of a body: 1,024 messages, as many biases, and some more."""
MAX_VALUES_BESIDE_PROMPT = 16_384
"""Lists, objects and their items, beside as many token ids as the context holds."""
_AT_ONCE_BYTES = 16 << 10
"""A body up to this size is read where it arrived; a larger one in a thread of its own."""


async def parsed(body: bytes, kind: type[Request], *, num_ids: int, context_len: int) -> Request:
    """The request; ApiError says what is wrong with it."""

    def parse() -> Request:
        check_counts(body, context_len + MAX_VALUES_BESIDE_PROMPT)
        try:
            asked = kind.model_validate_json(body)
            asked.check(num_ids)
        except ValidationError as error:
            raise from_validation(error) from None
        except ConfigError as error:
            raise ApiError(400, str(error), code="invalid_value") from None
        return asked

    return parse() if len(body) <= _AT_ONCE_BYTES else await asyncio.to_thread(parse)


def check_counts(body: bytes, max_values: int) -> None:
    """ApiError where JSON holds more keys or values than any request may."""
    # Without escapes, every other part between quotation marks lies outside of strings.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * (2 * MAX_KEYS + MAX_VALUES_BESIDE_PROMPT):
        raise _too_many("strings")
    outside = b"".join(plain.split(b'"')[::2])
    if outside.count(b":") > MAX_KEYS:
        raise _too_many("keys")
    if sum(map(outside.count, (b",", b"[", b"{"))) > max_values:
        raise _too_many("values")


def _too_many(what: str) -> ApiError:
    text = f"the body holds more {what} than this server reads, or more token ids than its context"
    return ApiError(400, text, code="invalid_value")
