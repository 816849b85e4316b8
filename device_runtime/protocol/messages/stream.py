"""Messages of the edge-only stream: the LLM alone writes, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from device_runtime.protocol.messages.fields import (
    MAX_TOKENS,
    Kind,
    read_boolean,
    read_no_flags,
    write_no_flags,
)  # fmt: skip
from device_runtime.protocol.sampling import MAX_TOKEN_ID
from device_runtime.protocol.wire import Reader, Writer


@dataclass(frozen=True, slots=True)
class Stream:
    """Device: let the LLM alone write up to this many tokens (the edge-only baseline)."""

    kind: ClassVar = Kind.STREAM
    max_tokens: int

    def write(self, out: Writer) -> None:
        write_no_flags(out)
        out.varint(self.max_tokens)

    @classmethod
    def read(cls, data: Reader) -> Stream:
        read_no_flags(data)
        return cls(data.varint(MAX_TOKENS))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Edge: tokens of a stream; `last` closes it."""

    kind: ClassVar = Kind.TOKENS
    ids: tuple[int, ...]
    last: bool

    def write(self, out: Writer) -> None:
        write_no_flags(out)
        out.varints(self.ids)
        out.u8(self.last)

    @classmethod
    def read(cls, data: Reader) -> Tokens:
        read_no_flags(data)
        return cls(data.varints(MAX_TOKENS, MAX_TOKEN_ID), read_boolean(data))


@dataclass(frozen=True, slots=True)
class Cancel:
    """Device: end the stream after the token in hand."""

    kind: ClassVar = Kind.CANCEL

    def write(self, out: Writer) -> None:
        """No fields."""

    @classmethod
    def read(cls, _: Reader) -> Cancel:
        return cls()
