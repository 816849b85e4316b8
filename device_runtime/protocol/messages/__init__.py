"""The messages and their bytes. Byte layouts and states are tabled in docs/protocol.md.

Every message starts with the protocol version and its kind, one byte each. Fields follow in the
order in which they stand in its class. What a scheme adds (evidence, rejection) is opaque at this
level: only a session knows which scheme is in force.

Zeros may follow every message of a generation: padding, so that sizes tell nothing. They are no part
of the content; those behind a round lie in its block, which may end with zeros of its own.
"""

from __future__ import annotations

from device_runtime.protocol.errors import ErrorCode, LocalError, RemoteError
from device_runtime.protocol.messages.fields import MAX_GAMMA, MAX_MESSAGE_BYTES, SESSION_PATH, Kind
from device_runtime.protocol.messages.rounds import Ending, Flags, More, Round, Verdict
from device_runtime.protocol.messages.setup import Begin, Begun, Close, Hello, Refusal, Welcome
from device_runtime.protocol.messages.stream import Cancel, Stream, Tokens
from device_runtime.protocol.wire import Reader, Writer, malformed

__all__ = [
    "MAX_GAMMA", "MAX_MESSAGE_BYTES", "PROTOCOL_VERSION", "SESSION_PATH", "Begin", "Begun", "Cancel",
    "Close", "Ending", "Flags", "Hello", "Kind", "Message", "More", "Refusal", "Round", "Stream",
    "Tokens", "Verdict", "Welcome", "decode", "encode", "refusal",
]  # fmt: skip

PROTOCOL_VERSION = 1

Message = (
    Hello | Welcome | Begin | Begun | Round | Verdict | More | Stream | Tokens | Cancel | Close
    | Refusal
)  # fmt: skip

_CLASSES: dict[int, type[Message]] = {
    cls.kind: cls
    for cls in (
        Hello, Welcome, Begin, Begun, Round, Verdict, More, Stream, Tokens, Cancel, Close, Refusal,
    )
}  # fmt: skip


_PADDED = {
    cls.kind for cls in (Begin, Begun, Round, Verdict, More, Stream, Tokens, Cancel)
}  # fmt: skip


def encode(message: Message, pad_to_bytes: int = 0) -> bytes:
    """The bytes of a message, and zeros up to a multiple of pad_to_bytes; 0 adds none."""
    out = Writer()
    out.u8(PROTOCOL_VERSION)
    out.u8(message.kind)
    message.write(out)
    data = out.getvalue()
    if len(data) > MAX_MESSAGE_BYTES:
        raise LocalError(ErrorCode.TOO_LARGE, f"{len(data)} bytes, at most {MAX_MESSAGE_BYTES}")
    if not pad_to_bytes:
        return data
    size = -(-len(data) // pad_to_bytes) * pad_to_bytes
    return data.ljust(min(size, MAX_MESSAGE_BYTES), b"\0")


def decode(data: bytes) -> Message:
    """The message of these bytes; RemoteError, and nothing else, on bytes that are none."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise RemoteError(ErrorCode.TOO_LARGE, f"{len(data)} bytes, at most {MAX_MESSAGE_BYTES}")
    reader = Reader(data)
    version = reader.u8()
    if version != PROTOCOL_VERSION:
        raise RemoteError(
            ErrorCode.UNSUPPORTED_VERSION, f"got {version}, this side speaks {PROTOCOL_VERSION}"
        )
    kind = reader.u8()
    if kind not in _CLASSES:
        raise malformed(f"there is no message kind {kind}")
    message = _CLASSES[kind].read(reader)
    reader.finish(padded=kind in _PADDED)
    return message


def refusal(data: bytes) -> Refusal | None:
    """The refusal that these bytes are; None for any others."""
    if data[1:2] != bytes([Kind.ERROR]):
        return None
    message = decode(data)
    return message if isinstance(message, Refusal) else None
