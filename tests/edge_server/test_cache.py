"""Keys and values by block: written to places, read by tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_server.batch import stretch_of
from edge_server.blocks import BLOCK_LEN, ZERO_BLOCK
from edge_server.cache import PagedCache
from tests.cache_blocks import HEADS, SIZE, write


def test_keys_and_values_come_back_from_the_blocks_of_a_table() -> None:
    cache = PagedCache(num_layers=1)
    cache.grow(3)
    first, second = 2, 1
    write(cache, first, 3.0)
    write(cache, second, 5.0)
    keys, values = cache.gather(0, torch.tensor([[second, first], [first, ZERO_BLOCK]]))
    assert keys.shape == (2, HEADS, 2 * BLOCK_LEN, SIZE)
    assert keys[:, 0, ::BLOCK_LEN, 0].tolist() == [[5.0, 3.0], [3.0, 0.0]]
    assert values[:, 1, ::BLOCK_LEN, 3].tolist() == [[6.0, 4.0], [4.0, 0.0]]


@pytest.mark.parametrize(
    "tables", [[[3]], [[2, 3, 4]], [[1, 2], [4, 5], [7, 8]], [[5, 6], [5, 6]], [[1, 2], [2, 3]]]
)
def test_blocks_in_a_row_are_read_where_they_are(tables: list[list[int]]) -> None:
    """The same numbers without a copy."""
    cache = PagedCache(num_layers=1)
    cache.grow(10)
    for block in range(1, 10):
        write(cache, block, float(block))
    stretch = stretch_of(np.array(tables))
    assert stretch is not None
    copied = cache.gather(0, torch.tensor(tables))
    viewed = cache.gather(0, torch.tensor(tables), stretch)
    for ours, theirs, pool in zip(viewed, copied, cache._pools[0], strict=True):
        assert torch.equal(ours, theirs)
        assert ours.untyped_storage().data_ptr() == pool.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "tables", [[[2, 1]], [[1, 3]], [[1, 2], [3, ZERO_BLOCK]], [[1], [2], [4]], [[4], [2]]]
)
def test_blocks_out_of_order_must_be_gathered(tables: list[list[int]]) -> None:
    assert stretch_of(np.array(tables)) is None


def test_a_model_is_told_no_past_and_the_length_of_the_longest_text() -> None:
    cache = PagedCache(num_layers=3)
    cache.begin(torch.arange(4), 64)
    assert (cache.get_seq_length(), cache.get_query_offset()) == (0, 0)
    assert cache.get_mask_sizes(torch.arange(4), 0) == (64, 0)
    assert cache.get_max_cache_shape() == 64
    assert len(cache) == len(cache.is_sliding) == 3


def test_what_is_written_survives_growth_and_not_wiping() -> None:
    cache = PagedCache(num_layers=1)
    cache.grow(3)
    for block in (1, 2):
        write(cache, block, 7.0)
    cache.grow(50)
    assert cache.gather(0, torch.tensor([[1, 2]]))[0].unique().tolist() == [7.0]
    cache.wipe([2])
    keys, values = cache.gather(0, torch.tensor([[1], [2]]))
    assert keys[0].unique().tolist() == [7.0]
    assert not keys[1].any()
    assert not values[1].any()
    assert cache.block_bytes == 2 * 4 * BLOCK_LEN * HEADS * SIZE
