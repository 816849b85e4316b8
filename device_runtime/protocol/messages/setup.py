"""Messages that open a session and begin a generation, and those that end or refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from device_runtime.protocol.errors import ErrorCode
from device_runtime.protocol.messages.fields import (
    MAX_END_IDS,
    MAX_GAMMA,
    MAX_TEXT_BYTES,
    MAX_TOKENS,
    Kind,
    read_boolean,
    read_no_flags,
    read_sampling,
    to_member,
    write_no_flags,
    write_sampling,
)  # fmt: skip
from device_runtime.protocol.sampling import MAX_TOKEN_ID, Sampling
from device_runtime.protocol.wire import Reader, Writer


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
            resumed=read_boolean(data),
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
    """Messages are padded to a multiple of this size from this one on; 0 pads nothing."""

    def write(self, out: Writer) -> None:
        write_no_flags(out)
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
        read_no_flags(data)
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
class Close:
    """Device: the session is over and may be forgotten."""

    kind: ClassVar = Kind.CLOSE

    def write(self, out: Writer) -> None:
        """No fields."""

    @classmethod
    def read(cls, _: Reader) -> Close:
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
        return cls(to_member(ErrorCode, data.u8()), data.f32())
