"""Messages of a round: the block up, the verdict down, and more draws for a rejection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages.fields import (
    MAX_GAMMA,
    MAX_MESSAGE_BYTES,
    MAX_TOKENS,
    Kind,
    read_boolean,
    to_member,
)  # fmt: skip
from device_runtime.protocol.sampling import MAX_TOKEN_ID
from device_runtime.protocol.wire import Reader, Writer


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


NO_FLAGS = Flags(0)
SUPPORTED_FLAGS = Flags.NO_BONUS | Flags.LOGPROBS


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
    flags: Flags = NO_FLAGS

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
    """Of the appended, accepted and next tokens, where they were asked for: natural logs of the
    LLM's own probabilities, at temperature 1 with nothing cut or penalised."""

    def write(self, out: Writer) -> None:
        out.varint(self.epoch)
        out.varint(self.round_number)
        out.varint(self.num_accepted)
        out.u8(self.ending)
        out.varint(len(self.logprobs))
        for value in self.logprobs:
            out.f32(value)
        out.block(self.body)

    @classmethod
    def read(cls, data: Reader) -> Verdict:
        epoch, round_number = data.varint(), data.varint()
        num_accepted = data.varint(MAX_GAMMA)
        ending = to_member(Ending, data.u8())
        logprobs = tuple(data.f32() for _ in range(data.varint(MAX_TOKENS)))
        body = data.block(MAX_MESSAGE_BYTES)
        return cls(epoch, round_number, num_accepted, ending, body, logprobs)


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
            whole_row=read_boolean(data),
        )


def _flags(data: Reader) -> Flags:
    value = data.u8()
    if value & ~int(SUPPORTED_FLAGS):
        raise RemoteError(ErrorCode.UNSUPPORTED_PARAMETER, f"extension flags {value:#x}")
    return Flags(value) if value else NO_FLAGS
