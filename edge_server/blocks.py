"""The blocks of the cache, and which are free: numbers alone, whoever holds the tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

BLOCK_LEN = 32
"""Positions in a block: half of one is wasted per session, and a copy of one is long enough."""

ZERO_BLOCK = 0
"""Never handed out, never written: it fills up the block tables of shorter sessions."""

_FIRST_CAPACITY = 64
_GROWTH = 1.5


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold this many positions."""
    return -(-num_tokens // BLOCK_LEN)


class BlockStore(Protocol):
    """What holds the blocks' keys and values."""

    def grow(self, capacity: int) -> None:
        """Have room for so many blocks, ZERO_BLOCK included; what is written stays.

        If memory runs out half way, it may be asked again.
        """
        ...

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero them."""
        ...


class FreeBlocks:
    """Hands out zeroed blocks. The store starts small and grows up to a budget: memory follows use."""

    def __init__(self, store: BlockStore, max_blocks: int) -> None:
        """max_blocks: the most blocks to allocate, ZERO_BLOCK included."""
        self._store = store
        self._max_blocks = max_blocks
        self._capacity = min(_FIRST_CAPACITY, max_blocks)
        store.grow(self._capacity)
        self._clean = list(range(self._capacity - 1, ZERO_BLOCK, -1))
        self._used_before: list[int] = []

    def __len__(self) -> int:
        """Blocks that can still be handed out, those not yet allocated included."""
        return len(self._clean) + len(self._used_before) + self._max_blocks - self._capacity

    def take(self, count: int) -> list[int]:
        """Hand out zeroed blocks; count ≤ len."""
        assert count <= len(self)
        if count > len(self._clean):
            self._wipe()
        if count > len(self._clean):
            self._grow(count - len(self._clean))
        return [self._clean.pop() for _ in range(count)]

    def give_back(self, blocks: Iterable[int]) -> None:
        """Blocks that no session uses any more."""
        self._used_before += blocks

    def _wipe(self) -> None:
        """Zero what was given back.

        Masked places weigh 0, but 0 · NaN is NaN: one session's overflow must not reach the next
        owner of its blocks.
        """
        if self._used_before:
            self._store.wipe(self._used_before)
        # In order, so that a text mostly gets blocks that lie one behind the other.
        self._clean = sorted((*self._clean, *self._used_before), reverse=True)
        self._used_before = []

    def _grow(self, num_missing: int) -> None:
        wanted = max(self._capacity + num_missing, int(self._capacity * _GROWTH))
        capacity = min(wanted, self._max_blocks)
        self._store.grow(capacity)
        self._clean += range(self._capacity, capacity)
        self._capacity = capacity
