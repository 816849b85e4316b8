"""Free blocks: what is handed out is zero, belongs to one session, and takes memory only with use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edge_server.blocks import FreeBlocks
from edge_server.cache import PagedCache
from tests.cache_blocks import write


class Store:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.capacity = 0
        self.wiped: list[list[int]] = []

    def grow(self, capacity: int) -> None:
        assert capacity > self.capacity
        self.capacity = capacity

    def wipe(self, blocks: Sequence[int]) -> None:
        self.wiped.append(list(blocks))


def test_a_block_is_handed_out_once_and_never_the_zero_block() -> None:
    free = FreeBlocks(Store(), max_blocks=200)
    blocks = free.take(60) + free.take(139)
    assert sorted(blocks) == list(range(1, 200))
    assert len(free) == 0


def test_blocks_that_were_used_before_are_wiped_once_and_handed_out_in_order() -> None:
    store = Store()
    free = FreeBlocks(store, max_blocks=9)
    blocks = free.take(8)
    given = [blocks[i] for i in (5, 2, 7, 0)]
    free.give_back(given)
    assert store.wiped == []
    assert free.take(4) == sorted(given)
    assert store.wiped == [given]


def test_the_store_grows_with_use_and_within_the_budget() -> None:
    store = Store()
    free = FreeBlocks(store, max_blocks=1000)
    free.take(1)
    few = store.capacity
    free.take(500)
    assert few < 502 <= store.capacity < 1000
    free.take(len(free))
    assert store.capacity == 1000


def test_a_block_that_held_nan_is_zero_for_its_next_owner() -> None:
    cache = PagedCache(num_layers=1)
    free = FreeBlocks(cache, max_blocks=3)
    blocks = free.take(2)
    write(cache, blocks[0], float("nan"))
    free.give_back(blocks)
    assert sorted(free.take(2)) == sorted(blocks)
    keys, values = cache.gather(0, torch.tensor([blocks]))
    assert not keys.any()
    assert not values.any()
