"""Packed rows: round trips, pinned bytes, and bytes that lie about what they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.errors import RemoteError
from device_runtime.protocol.packing import read_row, write_row
from device_runtime.protocol.wire import Reader, Writer

NUM_IDS = 5000
MAX_NUMBER = 1 << 31


def packed(ids: list[int], numbers: list[int]) -> bytes:
    out = Writer()
    write_row(out, np.array(ids, np.int64), np.array(numbers, np.int64))
    return out.getvalue()


def read(data: bytes) -> tuple[list[int], list[int]]:
    ids, numbers = read_row(Reader(data), NUM_IDS, MAX_NUMBER)
    return ids.tolist(), numbers.tolist()


@given(st.dictionaries(st.integers(0, NUM_IDS - 1), st.integers(1, MAX_NUMBER)))
def test_a_row_comes_back(row: dict[int, int]) -> None:
    ids = sorted(row)
    numbers = [row[token_id] for token_id in ids]
    assert read(packed(ids, numbers)) == (ids, numbers)


def test_the_bytes_of_this_version_are_pinned() -> None:
    """A change here is a new wire format: raise PROTOCOL_VERSION."""
    assert packed([0, 1, 7, 300], [5, 1, 70, 2]).hex() == "0401c805838960f0"


def test_a_row_takes_few_bits_more_than_its_law_says() -> None:
    """Ids at random and numbers with chance ∝ 1/n²: log2 C(V, n) and the entropy, and 8 % on top."""
    rng = np.random.default_rng(1)
    chances = 1.0 / np.arange(1, 4000) ** 2
    chances /= chances.sum()
    ids = np.sort(rng.choice(NUM_IDS, 1000, replace=False))
    numbers = rng.choice(np.arange(1, 4000), 1000, p=chances)
    entropy_bits = math.log2(math.comb(NUM_IDS, 1000)) - 1000 * (chances @ np.log2(chances))
    assert 8 * len(packed(ids.tolist(), numbers.tolist())) < 1.08 * entropy_bits


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_one_error(data: bytes) -> None:
    try:
        ids, numbers = read(data)
    except RemoteError:
        return
    assert len(ids) == len(numbers) and (np.diff(ids) > 0).all()
    assert all(0 <= token_id < NUM_IDS for token_id in ids)
    assert all(1 <= number <= MAX_NUMBER for number in numbers)


def test_an_id_or_a_number_out_of_range_is_refused() -> None:
    for ids, numbers in [([NUM_IDS], [1]), ([1, NUM_IDS], [1, 1]), ([1], [MAX_NUMBER + 1])]:
        with pytest.raises(RemoteError):
            read(packed(ids, numbers))


def test_a_count_that_lies_is_refused() -> None:
    data = packed([1, 2, 300], [4, 5, 600])
    for count in (0, 2, 4, NUM_IDS, NUM_IDS + 1):
        out = Writer()
        out.varint(count)
        out.rest(data[1:])
        with pytest.raises(RemoteError):
            read(out.getvalue())


def test_more_bytes_than_a_count_can_need_are_refused_before_they_are_unpacked() -> None:
    for filler in (b"\x00", b"\xff"):
        with pytest.raises(RemoteError, match="takes"):
            read(b"\x03\x00" + filler * 25)


def test_a_row_cut_anywhere_or_with_a_bit_behind_it_is_refused() -> None:
    data = packed([5, 6, 900, 4000], [9, 1, 3, 70_000])
    for wrong in [*(data[:length] for length in range(len(data))), data + b"\x00", data + b"\x80"]:
        with pytest.raises(RemoteError):
            read(wrong)


def test_a_field_wider_than_any_number_is_refused() -> None:
    """One entry, gap 0, then 33 zeros before the one: more bits than any number has."""
    with pytest.raises(RemoteError, match="too many bits"):
        read(b"\x01\x00" + np.packbits([1] + [0] * 33 + [1] + [0] * 29).tobytes())


def test_an_empty_row_comes_back() -> None:
    assert read(packed([], [])) == ([], [])
