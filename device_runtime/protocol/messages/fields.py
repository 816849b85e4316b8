"""Kinds, limits and the small field codecs that all messages share."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from device_runtime.protocol.errors import ConfigError, ErrorCode, RemoteError
from device_runtime.protocol.sampling import MAX_BIASES, MAX_TOKEN_ID, Sampling
from device_runtime.protocol.wire import Reader, Writer, malformed

SESSION_PATH = "/v1/session"
"""Where an edge takes WebSockets."""
MAX_MESSAGE_BYTES = 4 << 20
"""Largest message either side accepts: a whole fp32 row of 150,000 ids, with room for evidence."""
MAX_TOKENS = 1 << 20
MAX_GAMMA = 64
MAX_ROWS = 128
"""Most rows of logits one round may ask for: its block, the bonus, and log probabilities of tokens
that the device added itself."""
MAX_END_IDS = 64
MAX_TEXT_BYTES = 256

E = TypeVar("E", bound=IntEnum)


class Kind(IntEnum):
    """What a message is. Even kinds go up, odd ones down; gaps leave room."""

    HELLO = 2
    WELCOME = 3
    BEGIN = 4
    BEGUN = 5
    ROUND = 6
    VERDICT = 7
    MORE = 8
    STREAM = 10
    TOKENS = 11
    CANCEL = 12
    CLOSE = 14
    ERROR = 15


def write_sampling(out: Writer, sampling: Sampling) -> None:
    """All parameters, none left to a default of the other side."""
    out.f64(sampling.temperature)
    out.varint(sampling.top_k)
    out.f64(sampling.top_p)
    out.f64(sampling.min_p)
    out.f64(sampling.repetition_penalty)
    out.f64(sampling.presence_penalty)
    out.f64(sampling.frequency_penalty)
    out.varint(len(sampling.logit_bias))
    for token_id, bias in sampling.logit_bias:
        out.varint(token_id)
        out.f64(bias)


def read_sampling(data: Reader) -> Sampling:
    """What `write_sampling` wrote, checked as any user's parameters are."""
    temperature, top_k = data.f64(), data.varint(MAX_TOKEN_ID)
    top_p, min_p = data.f64(), data.f64()
    repetition, presence, frequency = data.f64(), data.f64(), data.f64()
    num_biases = data.varint(MAX_BIASES)
    bias = tuple((data.varint(MAX_TOKEN_ID), data.f64()) for _ in range(num_biases))
    try:
        return Sampling(temperature, top_k, top_p, min_p, repetition, presence, frequency, bias)
    except ConfigError as error:
        raise RemoteError(ErrorCode.UNSUPPORTED_PARAMETER, str(error)) from None


def write_no_flags(out: Writer) -> None:
    """Room for extension flags of a message that has none yet."""
    out.u8(0)


def read_no_flags(data: Reader) -> None:
    """An extension that this side does not know must not be passed over."""
    if value := data.u8():
        raise RemoteError(ErrorCode.UNSUPPORTED_PARAMETER, f"extension flags {value:#x}")


def read_boolean(data: Reader) -> bool:
    """0 or 1."""
    value = data.u8()
    if value > 1:
        raise malformed(f"a flag is {value}, not 0 or 1")
    return bool(value)


def to_member(enum: type[E], value: int) -> E:
    """The member of the enum that has this value."""
    try:
        return enum(value)
    except ValueError:
        raise malformed(f"{value} is no {enum.__name__}") from None
