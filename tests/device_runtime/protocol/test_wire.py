"""Varints, bits and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.errors import ErrorCode, LocalError, RemoteError
from device_runtime.protocol.wire import MAX_VARINT, BitReader, BitWriter, Reader, Writer


@given(st.integers(0, MAX_VARINT))
def test_a_varint_comes_back(value: int) -> None:
    out = Writer()
    out.varint(value)
    data = Reader(out.getvalue())
    assert data.varint() == value
    data.finish()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 10 + b"\x01"])
def test_a_bad_varint_is_refused(data: bytes) -> None:
    """Empty, cut, longer than needed, more than 64 bits."""
    with pytest.raises(RemoteError):
        Reader(data).varint()


def test_a_limit_is_kept() -> None:
    with pytest.raises(RemoteError) as refused:
        Reader(b"\x65").varint(limit=100)
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_a_count_that_cannot_fit_is_refused_before_memory_is_taken() -> None:
    out = Writer()
    out.varint(10**6)
    with pytest.raises(RemoteError):
        Reader(out.getvalue()).varints(max_count=10**7, limit=10)


LIMIT = (1 << 24) - 1


def one_by_one(data: bytes) -> tuple[int, ...]:
    """What a list of numbers is, read by the reader of single ones."""
    reader = Reader(data)
    return tuple(reader.varint(LIMIT) for _ in range(reader.varint()))


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, LIMIT), max_size=300))
def test_a_list_of_numbers_comes_back_and_what_follows_is_left(values: list[int]) -> None:
    out = Writer()
    out.varints(values)
    out.u8(77)
    data = Reader(out.getvalue())
    assert data.varints(300, LIMIT) == tuple(values)
    assert data.u8() == 77
    data.finish()


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(100, 120), st.data())
def test_a_long_list_of_any_bytes_is_read_or_refused_as_one_by_one(
    count: int, data: st.DataObject
) -> None:
    numbers = st.sampled_from(
        [b"\x05", b"\x80\x01", b"\xff\xff\xff\x07", b"\x80\x80\x80\x08", b"\x80\x00", b"\xff" * 11]
    )
    good, odd = [b"\x05"] * count, data.draw(st.lists(numbers, max_size=3))
    at = data.draw(st.integers(0, count))
    raw = (
        bytes([count]) + b"".join([*good[:at], *odd, *good[at:]])[: data.draw(st.integers(95, 130))]
    )
    try:
        expected = one_by_one(raw)
    except RemoteError:
        with pytest.raises(RemoteError):
            Reader(raw).varints(1000, LIMIT)
    else:
        assert Reader(raw).varints(1000, LIMIT) == expected


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0)), max_size=40), st.integers(0, 2**20))
def test_bits_come_back(fields: list[tuple[int, int]], gamma: int) -> None:
    bits = BitWriter()
    for width, value in fields:
        bits.put(value % (1 << width), width)
    bits.put_gamma(gamma)
    reader = BitReader(bits.getvalue())
    for width, value in fields:
        assert reader.take(width) == value % (1 << width)
    assert reader.take_gamma() == gamma
    reader.finish()


def test_a_value_wider_than_its_field_is_our_own_error() -> None:
    with pytest.raises(LocalError):
        BitWriter().put(8, 3)


def test_bits_that_end_early_or_late_are_refused() -> None:
    with pytest.raises(RemoteError):
        BitReader(b"\x01").take(9)
    with pytest.raises(RemoteError):
        BitReader(b"\x00\x00\x00\x00\x00").take_gamma()
    with pytest.raises(RemoteError):
        BitReader(b"\x01").finish()
    with pytest.raises(RemoteError):
        BitReader(b"\x00").finish()
    BitReader(b"\x00\x00").finish(padded=True)
