"""Messages ↔ bytes: round trips, golden bytes, and everything that is no message."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.errors import ErrorCode, LocalError, RemoteError
from device_runtime.protocol.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Begin,
    Begun,
    Cancel,
    Close,
    Ending,
    Flags,
    Hello,
    Message,
    More,
    Refusal,
    Round,
    Stream,
    Tokens,
    Verdict,
    Welcome,
    decode,
    encode,
)  # fmt: skip
from device_runtime.protocol.sampling import Sampling

GOLDEN = Path(__file__).parents[2] / "golden" / f"messages_v{PROTOCOL_VERSION}.json"

EXAMPLES: list[Message] = [
    Hello("tandem 0.1", 8192, b"0123456789abcdef"),
    Welcome("tales", b"0123456789abcdef", True, 8192, bytes(16), 1024, 64, (0, 2)),
    Begin(
        3, 0xDEADBEEF, (4, 5, 70000), 6, 6,
        Sampling(0.8, 40, 0.9, 0.05, 1.1, 0.2, 0.3, ((5, -1.0), (9, 2.5))),
        2**64 - 1, (0,), 2, 3, 64,
    ),
    Begun(300),
    Round(7, 2, 300, 0x01020304, (9,), 3, 23, b"\x12\x34\x56", Flags.NO_BONUS | Flags.LOGPROBS),
    Verdict(7, 2, 1, Ending.REJECTION, b"body", (-0.5, -2.0)),
    Verdict(7, 3, 3, Ending.TOKEN, b"\x09"),
    More(7, 2, 301, 0xFFFFFFFF, 23, 23, False),
    Stream(128),
    Tokens((1, 2, 300), True),
    Cancel(),
    Close(),
    Refusal(ErrorCode.BUSY, 1.5),
]  # fmt: skip

PADDED = [m for m in EXAMPLES if not isinstance(m, Hello | Welcome | Close | Refusal)]
PAD = 32

by_name = pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)


@by_name
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


def test_the_bytes_of_this_version_are_pinned() -> None:
    """A change here is a new wire format: raise PROTOCOL_VERSION and add a golden file."""
    golden = json.loads(GOLDEN.read_text())
    assert [encode(message).hex() for message in EXAMPLES] == golden["messages"]
    assert [encode(message, PAD).hex() for message in PADDED] == golden[f"padded to {PAD}"]


@by_name
def test_every_proper_prefix_is_refused_or_another_padding(message: Message) -> None:
    data = encode(message)
    for length in range(len(data)):
        try:
            other = decode(data[:length])
        except RemoteError:
            continue
        # What is left of a block is opaque here: a session refuses it by its count.
        assert isinstance(other, Round) and other != message


@by_name
def test_a_trailing_byte_is_refused_or_opaque(message: Message) -> None:
    if isinstance(message, Round):
        return
    with pytest.raises(RemoteError):
        decode(encode(message) + b"\x01")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"", b"\x01"]), st.integers(0, 16))
def test_any_bytes_are_a_message_or_one_error(data: bytes, version: bytes, kind: int) -> None:
    if version:
        data = version + bytes([kind]) + data
    try:
        message = decode(data)
    except RemoteError:
        return
    rest = data.removeprefix(encode(message))
    assert not any(rest) and (rest == b"" or data[1] in {m.kind for m in PADDED})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_flipped_byte_is_a_message_or_one_error(message: Message, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteError):
        decode(bytes(raw))


def test_another_version_is_named() -> None:
    with pytest.raises(RemoteError) as refused:
        decode(bytes([PROTOCOL_VERSION + 1]) + encode(Close())[1:])
    assert refused.value.code is ErrorCode.UNSUPPORTED_VERSION


def test_a_message_above_the_limit_is_refused_on_both_sides() -> None:
    huge = Round(0, 0, 0, 0, (), 0, 0, bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(LocalError):
        encode(huge)
    with pytest.raises(RemoteError) as refused:
        decode(bytes(MAX_MESSAGE_BYTES + 1))
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_reserved_flags_are_refused() -> None:
    data = bytearray(encode(Round(0, 0, 0, 0, (), 0, 0, b"")))
    for flag in (Flags.TREE, Flags.GRAMMAR, 128):
        data[2] = flag
        with pytest.raises(RemoteError) as refused:
            decode(bytes(data))
        assert refused.value.code is ErrorCode.UNSUPPORTED_PARAMETER


@pytest.mark.parametrize("kind", [Begin, Stream, Tokens])
def test_messages_without_flags_of_their_own_keep_room_for_some(kind: type[Message]) -> None:
    """A device or an edge that does not know an extension says so: it never ignores one."""
    (message,) = (m for m in EXAMPLES if isinstance(m, kind))
    data = bytearray(encode(message))
    assert data[2] == 0
    for bit in range(8):
        data[2] = 1 << bit
        with pytest.raises(RemoteError) as refused:
            decode(bytes(data))
        assert refused.value.code is ErrorCode.UNSUPPORTED_PARAMETER


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_sampling_parameter_out_of_range_is_refused(value: float) -> None:
    good = encode(Begin(0, 0, (1,), 1, 6, Sampling(temperature=0.5), 0, ()))
    import struct

    bad = good.replace(struct.pack("<d", 0.5), struct.pack("<d", value))
    assert bad != good
    with pytest.raises(RemoteError):
        decode(bad)


@pytest.mark.parametrize("size", [8, 64, 100])
def test_padded_messages_have_few_sizes_and_the_same_content(size: int) -> None:
    for length in range(0, 200, 7):
        body = bytes(range(length))
        for message in (Verdict(1, 2, 3, Ending.REJECTION, body), Tokens(tuple(body), False)):
            padded = encode(message, size)
            assert len(padded) % size == 0 and len(padded) < len(encode(message)) + size
            assert decode(padded) == message


@pytest.mark.parametrize("message", PADDED, ids=lambda m: type(m).__name__)
def test_every_message_of_a_generation_may_end_with_zeros_and_nothing_else(
    message: Message,
) -> None:
    again = decode(encode(message, PAD))
    if isinstance(message, Round):  # opaque here: the session reads the block
        assert isinstance(again, Round) and again.block.rstrip(b"\0") == message.block
        return
    assert again == message
    for wrong in (b"\1", b"\0\1", b"\1\0"):
        with pytest.raises(RemoteError):
            decode(encode(message) + wrong)


@pytest.mark.parametrize("message", [m for m in EXAMPLES if m not in PADDED])
def test_what_belongs_to_no_generation_has_no_padding(message: Message) -> None:
    with pytest.raises(RemoteError):
        decode(encode(message) + b"\0")


def test_padding_stays_below_the_largest_message() -> None:
    message = Round(0, 0, 0, 0, (), 0, 0, bytes(MAX_MESSAGE_BYTES - 1000))
    assert len(encode(message, 60_000)) == MAX_MESSAGE_BYTES
