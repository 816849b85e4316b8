"""Packed rows: round trips, and bytes that lie about what they hold."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.errors import RemoteError
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.packing import read_row, write_row
from device_runtime.protocol.wire import Reader, Writer

NUM_IDS = 5000


def packed(ids: list[int], indices: list[int]) -> bytes:
    out = Writer()
    write_row(out, np.array(ids, np.int64), np.array(indices, np.int64))
    return out.getvalue()


@given(st.dictionaries(st.integers(0, NUM_IDS - 1), st.integers(1, GRID.num_levels - 1)))
def test_a_row_comes_back(row: dict[int, int]) -> None:
    ids = sorted(row)
    data = packed(ids, [row[token_id] for token_id in ids])
    got_ids, got_indices = read_row(Reader(data), NUM_IDS, GRID.num_levels)
    assert got_ids.tolist() == ids
    assert got_indices.tolist() == [row[token_id] for token_id in ids]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_one_error(data: bytes) -> None:
    try:
        ids, indices = read_row(Reader(data), NUM_IDS, GRID.num_levels)
    except RemoteError:
        return
    assert len(ids) == len(indices) and (np.diff(ids) > 0).all()


def test_an_id_or_an_index_out_of_range_is_refused() -> None:
    for ids, indices in [([NUM_IDS], [1]), ([1], [0]), ([1], [GRID.num_levels])]:
        with pytest.raises(RemoteError):
            read_row(Reader(packed(ids, indices)), NUM_IDS, GRID.num_levels)


def test_a_bomb_is_refused_without_unpacking_it() -> None:
    """A few bytes that would unpack to 64 MiB: no more is taken than the count implies."""
    out = Writer()
    out.varint(3)
    out.rest(zstandard.ZstdCompressor().compress(bytes(64 << 20)))
    with pytest.raises(RemoteError):
        read_row(Reader(out.getvalue()), NUM_IDS, GRID.num_levels)


def test_a_count_that_lies_is_refused() -> None:
    data = packed([1, 2, 3], [4, 5, 6])
    for count in (0, 2, 4):
        with pytest.raises(RemoteError):
            read_row(Reader(bytes([count]) + data[1:]), NUM_IDS, GRID.num_levels)
