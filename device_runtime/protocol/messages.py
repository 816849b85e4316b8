"""The messages and their bytes. Byte layouts and states are tabled in docs/protocol.md.

Every message starts with the protocol version and its kind, one byte each. Fields follow in the order
in which they stand here. What a scheme adds (evidence, rejection) is opaque at this level: only a
session knows which scheme is in force.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import ClassVar, TypeVar

from device_runtime.protocol.errors import ConfigError, ErrorCode, LocalError, RemoteError
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.wire import Reader, Writer, malformed

PROTOCOL_VERSION = 1

E = TypeVar("E", bound=IntEnum)

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message either side accepts: a whole fp32 row of 150,000 ids, with room for evidence."""
MAX_TOKENS = 1 << 20
MAX_TOKEN_ID = (1 << 24) - 1
MAX_GAMMA = 64
MAX_END_IDS = 64
MAX_BIASES = 1024
MAX_TEXT_BYTES = 256


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


class Flags(IntFlag):
    """Extensions of a round and of its verdict. Reserved ones are refused until they are built."""

    NO_BONUS = 1
    """Judge, but add no token after a block that stands as a whole: a continuation is in flight."""
    LOGPROBS = 2
    """The verdict carries the log probability of every token it commits."""
    TREE = 4
    """Reserved: parent indices of a token tree follow the block."""
    GRAMMAR = 8
    """Reserved: the state of a grammar follows the block."""


SUPPORTED_FLAGS = Flags.NO_BONUS | Flags.LOGPROBS


@dataclass(frozen=True, slots=True)
class Hello:
    """Device: open or resume a session."""

    kind: ClassVar = Kind.HELLO
    client: str
    """Name and version of the device's software, for logs."""
    num_ids: int
    """Ids that the device's tokenizer defines, counted from 0."""
    resume_token: bytes = b""

    def write(self, out: Writer) -> None:
        out.text(self.client)
        out.varint(self.num_ids)
        out.block(self.resume_token)

    @classmethod
    def read(cls, data: Reader) -> Hello:
        return cls(data.text(MAX_TEXT_BYTES), data.varint(MAX_TOKEN_ID + 1), data.block(64))


@dataclass(frozen=True, slots=True)
class Welcome:
    """Edge: the session's facts and limits."""

    kind: ClassVar = Kind.WELCOME
    model: str
    resume_token: bytes
    resumed: bool
    """Whether the token in the hello was known, so that tokens and verdicts are still here."""
    num_ids: int
    """Ids that the edge's tokenizer defines."""
    vocabulary_hash: bytes
    """Hash over the ids both sides define; the device compares it with its own."""
    context_len: int
    max_gamma: int
    end_ids: tuple[int, ...]

    def write(self, out: Writer) -> None:
        out.text(self.model)
        out.block(self.resume_token)
        out.u8(self.resumed)
        out.varint(self.num_ids)
        out.block(self.vocabulary_hash)
        out.varint(self.context_len)
        out.varint(self.max_gamma)
        out.varints(self.end_ids)

    @classmethod
    def read(cls, data: Reader) -> Welcome:
        return cls(
            model=data.text(MAX_TEXT_BYTES),
            resume_token=data.block(64),
            resumed=_boolean(data),
            num_ids=data.varint(MAX_TOKEN_ID + 1),
            vocabulary_hash=data.block(64),
            context_len=data.varint(MAX_TOKENS),
            max_gamma=data.varint(MAX_GAMMA),
            end_ids=data.varints(MAX_END_IDS, MAX_TOKEN_ID),
        )


@dataclass(frozen=True, slots=True)
class Begin:
    """Device: the list becomes its first `base` tokens + `appended`, and a generation starts there.

    `epoch` and `round_number` name the round that comes next: not 0 where another edge goes on.
    """

    kind: ClassVar = Kind.BEGIN
    base: int
    prefix_hash: int
    appended: tuple[int, ...]
    boundary: int
    """Tokens from this position on count as generated (penalties)."""
    scheme_code: int
    sampling: Sampling
    seed: int
    """Keys the edge's draws, and the shared noise of `coupled`."""
    end_ids: tuple[int, ...]
    epoch: int = 0
    round_number: int = 0
    pad_to_bytes: int = 0
    """Verdicts are padded to a multiple of this size; 0 pads nothing."""

    def write(self, out: Writer) -> None:
        out.varint(self.base)
        out.u32(self.prefix_hash)
        out.varints(self.appended)
        out.varint(self.boundary)
        out.varint(self.scheme_code)
        write_sampling(out, self.sampling)
        out.varint(self.seed)
        out.varints(self.end_ids)
        out.varint(self.epoch)
        out.varint(self.round_number)
        out.varint(self.pad_to_bytes)

    @classmethod
    def read(cls, data: Reader) -> Begin:
        return cls(
            base=data.varint(MAX_TOKENS),
            prefix_hash=data.u32(),
            appended=data.varints(MAX_TOKENS, MAX_TOKEN_ID),
            boundary=data.varint(MAX_TOKENS),
            scheme_code=data.varint(255),
            sampling=read_sampling(data),
            seed=data.varint(),
            end_ids=data.varints(MAX_END_IDS, MAX_TOKEN_ID),
            epoch=data.varint(),
            round_number=data.varint(),
            pad_to_bytes=data.varint(1 << 16),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """Edge: the prompt is in the cache."""

    kind: ClassVar = Kind.BEGUN
    num_tokens: int

    def write(self, out: Writer) -> None:
        out.varint(self.num_tokens)

    @classmethod
    def read(cls, data: Reader) -> Begun:
        return cls(data.varint(MAX_TOKENS))


@dataclass(frozen=True, slots=True)
class Round:
    """Device: judge this block, which stands after the first `base` tokens + `appended`."""

    kind: ClassVar = Kind.ROUND
    epoch: int
    round_number: int
    base: int
    prefix_hash: int
    appended: tuple[int, ...]
    """Tokens the device committed on its own: the one it resampled, if the last round rejected."""
    gamma: int
    num_draws: int
    """Draws wanted on a rejection, for schemes that send draws."""
    block: bytes
    """The ids, then the scheme's evidence, as bits; zeros may follow (padding)."""
    flags: Flags = Flags(0)

    def write(self, out: Writer) -> None:
        out.u8(self.flags)
        out.varint(self.epoch)
        out.varint(self.round_number)
        out.varint(self.base)
        out.u32(self.prefix_hash)
        out.varints(self.appended)
        out.varint(self.gamma)
        out.varint(self.num_draws)
        out.rest(self.block)

    @classmethod
    def read(cls, data: Reader) -> Round:
        flags = _flags(data)
        return cls(
            flags=flags,
            epoch=data.varint(),
            round_number=data.varint(),
            base=data.varint(MAX_TOKENS),
            prefix_hash=data.u32(),
            appended=data.varints(MAX_TOKENS, MAX_TOKEN_ID),
            gamma=data.varint(MAX_GAMMA),
            num_draws=data.varint(1 << 16),
            block=data.rest(),
        )


class Ending(IntEnum):
    """What follows the accepted tokens of a verdict."""

    NOTHING = 0
    TOKEN = 1
    REJECTION = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Edge: the answer to a round, and to a request for more (num_accepted is 0 there)."""

    kind: ClassVar = Kind.VERDICT
    epoch: int
    round_number: int
    num_accepted: int
    ending: Ending
    body: bytes
    """A token id as a varint, the scheme's rejection, or nothing."""
    logprobs: tuple[float, ...] = ()
    """Natural logs of p of the appended, accepted and next tokens, where they were asked for."""
    padding: int = 0
    """Zero bytes that follow; not part of the content."""

    def write(self, out: Writer) -> None:
        out.varint(self.epoch)
        out.varint(self.round_number)
        out.varint(self.num_accepted)
        out.u8(self.ending)
        out.varint(len(self.logprobs))
        for value in self.logprobs:
            out.f32(value)
        out.block(self.body)
        out.rest(bytes(self.padding))

    @classmethod
    def read(cls, data: Reader) -> Verdict:
        epoch, round_number = data.varint(), data.varint()
        num_accepted = data.varint(MAX_GAMMA)
        ending = _member(Ending, data.u8())
        logprobs = tuple(data.f32() for _ in range(data.varint(MAX_TOKENS)))
        body = data.block(MAX_MESSAGE_BYTES)
        return cls(epoch, round_number, num_accepted, ending, body, logprobs, _padding(data))


@dataclass(frozen=True, slots=True)
class More:
    """Device: no draw passed; send further ones for the rejected position `base`."""

    kind: ClassVar = Kind.MORE
    epoch: int
    round_number: int
    base: int
    prefix_hash: int
    first: int
    num_draws: int
    whole_row: bool

    def write(self, out: Writer) -> None:
        out.varint(self.epoch)
        out.varint(self.round_number)
        out.varint(self.base)
        out.u32(self.prefix_hash)
        out.varint(self.first)
        out.varint(self.num_draws)
        out.u8(self.whole_row)

    @classmethod
    def read(cls, data: Reader) -> More:
        return cls(
            epoch=data.varint(),
            round_number=data.varint(),
            base=data.varint(MAX_TOKENS),
            prefix_hash=data.u32(),
            first=data.varint(1 << 24),
            num_draws=data.varint(1 << 16),
            whole_row=_boolean(data),
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """Device: let the LLM alone write up to this many tokens (the edge-only baseline)."""

    kind: ClassVar = Kind.STREAM
    max_tokens: int

    def write(self, out: Writer) -> None:
        out.varint(self.max_tokens)

    @classmethod
    def read(cls, data: Reader) -> Stream:
        return cls(data.varint(MAX_TOKENS))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Edge: tokens of a stream; `last` closes it."""

    kind: ClassVar = Kind.TOKENS
    ids: tuple[int, ...]
    last: bool

    def write(self, out: Writer) -> None:
        out.varints(self.ids)
        out.u8(self.last)

    @classmethod
    def read(cls, data: Reader) -> Tokens:
        return cls(data.varints(MAX_TOKENS, MAX_TOKEN_ID), _boolean(data))


@dataclass(frozen=True, slots=True)
class Cancel:
    """Device: end the stream after the token in hand."""

    kind: ClassVar = Kind.CANCEL

    def write(self, out: Writer) -> None:
        """No fields."""

    @classmethod
    def read(cls, data: Reader) -> Cancel:
        return cls()


@dataclass(frozen=True, slots=True)
class Close:
    """Device: the session is over and may be forgotten."""

    kind: ClassVar = Kind.CLOSE

    def write(self, out: Writer) -> None:
        """No fields."""

    @classmethod
    def read(cls, data: Reader) -> Close:
        return cls()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Edge: the last message was refused; the session is as it was before it."""

    kind: ClassVar = Kind.ERROR
    code: ErrorCode
    retry_after_s: float = 0.0

    def write(self, out: Writer) -> None:
        out.u8(self.code)
        out.f32(self.retry_after_s)

    @classmethod
    def read(cls, data: Reader) -> Refusal:
        return cls(_member(ErrorCode, data.u8()), data.f32())


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


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    out = Writer()
    out.u8(PROTOCOL_VERSION)
    out.u8(message.kind)
    message.write(out)
    data = out.getvalue()
    if len(data) > MAX_MESSAGE_BYTES:
        raise LocalError(ErrorCode.TOO_LARGE, f"{len(data)} bytes, at most {MAX_MESSAGE_BYTES}")
    return data


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
    reader.finish()
    return message


def pad_verdict(verdict: Verdict, multiple: int) -> Verdict:
    """The verdict with padding up to a multiple of `multiple` bytes; as it is where that is 0."""
    return replace(verdict, padding=-len(encode(verdict)) % multiple) if multiple else verdict


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


def _boolean(data: Reader) -> bool:
    value = data.u8()
    if value > 1:
        raise malformed(f"a flag is {value}, not 0 or 1")
    return bool(value)


def _flags(data: Reader) -> Flags:
    value = data.u8()
    if value & ~SUPPORTED_FLAGS:
        raise RemoteError(ErrorCode.UNSUPPORTED_PARAMETER, f"extension flags {value:#x}")
    return Flags(value)


def _member(enum: type[E], value: int) -> E:
    try:
        return enum(value)
    except ValueError:
        raise malformed(f"{value} is no {enum.__name__}") from None


def _padding(data: Reader) -> int:
    rest = data.rest()
    if any(rest):
        raise malformed("padding holds other than zeros")
    return len(rest)
