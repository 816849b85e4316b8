"""Keys and values of all sessions in one pool of fixed-size blocks, as a `transformers` cache.

A session holds a list of block numbers; position n of its text lives in place n % BLOCK_LEN of its
block n // BLOCK_LEN. The pool starts small and grows up to a budget, so memory follows use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from edge_server.blocks import BLOCK_LEN


class PagedCache(Cache):
    """What the model sees as its cache. `update` writes each new token to its own place.

    The model's attention does not read what `update` returns but looks keys and values up with
    `gather`: `edge_server.attention`.
    """

    is_compileable = False
    is_initialized = True
    layer_class_to_replicate = None
    offloading = False

    def __init__(self, num_layers: int) -> None:
        # Not Cache.__init__: it builds one object per layer that would hold one batch.
        self.layers = []
        self._num_layers = num_layers
        self._pools: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer → keys and values (capacity, BLOCK_LEN, heads, head size)."""
        self._capacity = 0
        self._places = torch.empty(0, dtype=torch.int64)
        self._kv_len = 0

    # a store of blocks: `edge_server.blocks`

    def grow(self, capacity: int) -> None:
        """Have room for so many blocks."""
        for layer, (keys, values) in self._pools.items():
            # One tensor at a time: the old and the new pool never exist together as a whole.
            self._pools[layer] = grown = _grown(keys, capacity), values
            self._pools[layer] = grown[0], _grown(values, capacity)
        self._capacity = capacity

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero them."""
        for pool in self._tensors():
            pool[list(blocks)] = 0

    def _tensors(self) -> list[Tensor]:
        return [tensor for pair in self._pools.values() for tensor in pair]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers seen so far."""
        return sum(pool[0].numel() * pool.element_size() for pool in self._tensors())

    # what happens in a forward pass

    def begin(self, places: Tensor, kv_len: int) -> None:
        """The next pass writes to these places (n,) and attends to at most kv_len positions.

        A place is block · BLOCK_LEN + offset, one for every token of the pass.
        """
        self._places, self._kv_len = places, kv_len

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (1, heads, n, head size) of the new tokens."""
        if layer_idx not in self._pools:
            self._pools[layer_idx] = self._pool_like(key_states), self._pool_like(value_states)
        for pool, states in zip(self._pools[layer_idx], (key_states, value_states), strict=True):
            pool.flatten(0, 1).index_copy_(0, self._places, states[0].transpose(0, 1))
        return key_states, value_states

    def _pool_like(self, states: Tensor) -> Tensor:
        _, num_heads, _, head_size = states.shape
        return states.new_zeros(self._capacity, BLOCK_LEN, num_heads, head_size)

    def gather(
        self, layer_idx: int, tables: Tensor, stretch: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, heads, blocks · BLOCK_LEN, head size) of tables (rows, blocks).

        They are copies; with a stretch (`edge_server.batch.stretch_of`) the places themselves.
        """
        keys, values = self._pools[layer_idx]
        if stretch is not None:
            shape = tables.shape[0], tables.shape[1]
            return _viewed(keys, shape, stretch), _viewed(values, shape, stretch)
        return _gathered(keys, tables), _gathered(values, tables)

    # what models and the mask functions of transformers ask a cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are always given explicitly

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, cache_position: Any, layer_idx: int = 0) -> tuple[int, int]:
        return self._kv_len, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return self._kv_len

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * self._num_layers

    def __len__(self) -> int:
        return self._num_layers


def _grown(pool: Tensor, capacity: int) -> Tensor:
    if len(pool) >= capacity:  # it grew before memory ran out on another one
        return pool
    larger = pool.new_zeros(capacity, *pool.shape[1:])
    larger[: len(pool)] = pool
    return larger


def _gathered(pool: Tensor, tables: Tensor) -> Tensor:
    num_rows, num_blocks = tables.shape
    picked = pool.index_select(0, tables.flatten())  # (rows · blocks, BLOCK_LEN, heads, size)
    return picked.view(num_rows, num_blocks * BLOCK_LEN, *pool.shape[2:]).transpose(1, 2)


def _viewed(pool: Tensor, shape: tuple[int, int], stretch: tuple[int, int]) -> Tensor:
    num_rows, num_blocks = shape
    first, step = stretch
    block, place, head, number = pool.stride()
    size = (num_rows, num_blocks * BLOCK_LEN, *pool.shape[2:])
    strides = (step * block, place, head, number)
    offset = pool.storage_offset() + first * block
    return pool.as_strided(size, strides, offset).transpose(1, 2)
