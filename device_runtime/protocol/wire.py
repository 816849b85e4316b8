"""Bytes and bits: bounded writers and readers, on which all messages are built.

A reader raises RemoteError(MALFORMED) on anything short, long or out of range, and nothing else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from device_runtime.protocol.errors import ErrorCode, LocalError, RemoteError

MAX_VARINT = (1 << 64) - 1

_FEW = 64
"""Fewer numbers than that are read faster one by one."""


class Writer:
    """Appends fields to a message. Numbers are varints: seven bits a byte, low bits first."""

    def __init__(self) -> None:
        self._out = bytearray()

    def u8(self, value: int) -> None:
        self._out.append(value)

    def u32(self, value: int) -> None:
        self._out += struct.pack("<I", value)

    def f64(self, value: float) -> None:
        self._out += struct.pack("<d", value)

    def f32(self, value: float) -> None:
        self._out += struct.pack("<f", value)

    def varint(self, value: int) -> None:
        if not 0 <= value <= MAX_VARINT:
            raise LocalError(ErrorCode.MALFORMED, f"{value} is no unsigned 64-bit number")
        while value > 0x7F:
            self._out.append(value & 0x7F | 0x80)
            value >>= 7
        self._out.append(value)

    def varints(self, values: Sequence[int]) -> None:
        """A count and that many varints."""
        self.varint(len(values))
        for value in values:
            self.varint(value)

    def block(self, data: bytes) -> None:
        """A length and that many bytes."""
        self.varint(len(data))
        self._out += data

    def rest(self, data: bytes) -> None:
        """Bytes up to the end of the message."""
        self._out += data

    def text(self, value: str) -> None:
        self.block(value.encode())

    def getvalue(self) -> bytes:
        return bytes(self._out)


class Reader:
    """Takes fields off a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise malformed(f"the message ends after {len(self._data)} bytes, {end} were expected")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def u8(self) -> int:
        if self._at == len(self._data):
            self._take(1)  # says what is wrong
        self._at += 1
        return self._data[self._at - 1]

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def f64(self) -> float:
        return self._finite(struct.unpack("<d", self._take(8))[0])

    def f32(self) -> float:
        return self._finite(struct.unpack("<f", self._take(4))[0])

    @staticmethod
    def _finite(value: float) -> float:
        if not math.isfinite(value):
            raise malformed("a number is not finite")
        return value

    def varint(self, limit: int = MAX_VARINT) -> int:
        """An unsigned number ≤ limit, in its shortest form."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise malformed("a number has more than 64 bits")
        if byte == 0 and shift:
            raise malformed("a number is not in its shortest form")
        if value > limit:
            raise RemoteError(ErrorCode.TOO_LARGE, f"{value} is above the limit {limit}")
        return value

    def varints(self, max_count: int, limit: int) -> tuple[int, ...]:
        """A count ≤ max_count and that many numbers ≤ limit."""
        count = self.varint(max_count)
        if count > len(self._data) - self._at:
            raise malformed(f"{count} numbers do not fit into the rest of the message")
        if count < _FEW:
            return tuple(self.varint(limit) for _ in range(count))
        return self._many_varints(count, limit)

    def _many_varints(self, count: int, limit: int) -> tuple[int, ...]:
        """A long prompt's ids: all of them in a few steps instead of a few steps each."""
        rest = np.frombuffer(self._data, np.uint8, offset=self._at)
        ends = np.flatnonzero(rest < 0x80)[:count]
        if len(ends) < count:
            raise malformed("the message ends inside a list of numbers")
        lengths = np.diff(ends, prepend=-1)
        if lengths.max() > 8:
            raise RemoteError(ErrorCode.TOO_LARGE, "a number of a list has more than 56 bits")
        starts = ends - lengths + 1
        values = np.zeros(count, np.int64)
        for at in range(int(lengths.max())):
            reached = np.flatnonzero(lengths > at)
            values[reached] |= (rest[starts[reached] + at].astype(np.int64) & 0x7F) << (7 * at)
        if ((rest[ends] == 0) & (lengths > 1)).any():
            raise malformed("a number is not in its shortest form")
        if values.max() > limit:
            raise RemoteError(ErrorCode.TOO_LARGE, f"{values.max()} is above the limit {limit}")
        self._at += int(ends[-1]) + 1
        return tuple(values.tolist())

    def block(self, max_len: int) -> bytes:
        return self._take(self.varint(max_len))

    def text(self, max_len: int) -> str:
        try:
            return self.block(max_len).decode()
        except UnicodeDecodeError:
            raise malformed("a text is not UTF-8") from None

    def rest(self) -> bytes:
        """All bytes up to the end of the message."""
        return self._take(len(self._data) - self._at)

    def finish(self, padded: bool = False) -> None:
        """Nothing may follow, or nothing but zeros."""
        rest = self.rest()
        if rest and not (padded and rest.count(0) == len(rest)):
            raise malformed(f"{len(rest)} bytes follow the end of the message")


class BitWriter:
    """Appends fields of a few bits each, high bits first."""

    def __init__(self) -> None:
        self._value = 0
        self._num_bits = 0

    def put(self, value: int, num_bits: int) -> None:
        if value >> num_bits:
            raise LocalError(ErrorCode.MALFORMED, f"{value} does not fit into {num_bits} bits")
        self._value = self._value << num_bits | value
        self._num_bits += num_bits

    def put_gamma(self, value: int) -> None:
        """Elias gamma code of value ≥ 0: short for small values."""
        value += 1
        num_bits = 2 * value.bit_length() - 1  # leading zeros tell the length
        self._value = self._value << num_bits | value
        self._num_bits += num_bits

    def getvalue(self) -> bytes:
        """The bits so far, zeros up to a whole byte."""
        padding = -self._num_bits % 8
        return (self._value << padding).to_bytes((self._num_bits + padding) // 8, "big")


class BitReader:
    """Takes fields of a few bits each."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, num_bits: int) -> int:
        if num_bits > self._left:
            raise malformed("the message ends inside a field of bits")
        self._left -= num_bits
        return self._value >> self._left & ((1 << num_bits) - 1)

    def take_gamma(self) -> int:
        zeros = 0
        while self.take(1) == 0:
            zeros += 1
            if zeros > 32:
                raise malformed("a number has more than 32 bits")
        return (1 << zeros | self.take(zeros)) - 1

    def finish(self, padded: bool = False) -> None:
        """Only zeros may be left, and fewer than eight of them unless the block may be padded."""
        if self._value & ((1 << self._left) - 1) or (self._left >= 8 and not padded):
            raise malformed("bits follow the end of the block")


def malformed(detail: str) -> RemoteError:
    """The other side's bytes break the wire format."""
    return RemoteError(ErrorCode.MALFORMED, detail)
