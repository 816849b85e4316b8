"""Which cache blocks several sessions of one tenant hold: beginnings that their texts have in common.

A block may be shared once a prompt has filled it. It is found by the text up to its end, compared
token by token, and by the tenant: how long a first token takes tells whether somebody else has sent
the same beginning (arXiv 2411.18191 and CVE-2025-46570 measure it), so a beginning is never shared
between bearer tokens, nor between clients without one.

What the last holder gives back stays for the tenant's next text that begins so, *idle*, until its
room is needed: chats that follow each other read their system prompt once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from edge_server.blocks import BLOCK_LEN

_Key: TypeAlias = "tuple[bytes | int, tuple[int, ...]]"
"""The block before it (a tenant for the first), and its tokens."""


@dataclass(slots=True)
class _Node:
    key: _Key
    num_holders: int
    followers: set[int] = field(default_factory=set)
    """Shared blocks whose keys name this one; whoever holds one of them holds this one, too."""


class SharedBlocks:
    """Counts the sessions that hold a block; those that nobody holds may be taken away."""

    def __init__(self, max_idle: int) -> None:
        """max_idle: so many blocks that nobody holds are kept at most."""
        self._max_idle = max_idle
        self._blocks: dict[_Key, int] = {}
        self._nodes: dict[int, _Node] = {}
        self._idle: dict[int, int] = {}
        """Block → when its last holder gave it back, the longest ago first, ends of texts before
        their beginnings."""

    @property
    def num_idle(self) -> int:
        """Blocks kept that nobody holds."""
        return len(self._idle)

    @property
    def idle_since(self) -> int | None:
        """When the block that is idle for longest was given back; None if none is."""
        return next(iter(self._idle.values()), None)

    def num_holders(self, block: int) -> int:
        """Sessions that hold it."""
        return self._nodes[block].num_holders if block in self._nodes else 1

    def adopt(self, tenant: bytes, tokens: Sequence[int]) -> list[int]:
        """The blocks of the longest known beginning of a text; the caller holds them now, too."""
        found: list[int] = []
        before: bytes | int = tenant
        for end in range(BLOCK_LEN, len(tokens) + 1, BLOCK_LEN) if tenant else ():
            block = self._blocks.get((before, tuple(tokens[end - BLOCK_LEN : end])))
            if block is None:
                break
            found.append(block)
            before = block
        for block in found:
            self._nodes[block].num_holders += 1
            self._idle.pop(block, None)
        return found

    def offer(self, tenant: bytes, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """Let others of the tenant find the blocks that the text fills whole."""
        before: bytes | int = tenant
        for index in range(len(tokens) // BLOCK_LEN if tenant else 0):
            block = blocks[index]
            key = (before, tuple(tokens[index * BLOCK_LEN : (index + 1) * BLOCK_LEN]))
            if block not in self._nodes:
                if key in self._blocks:
                    break  # written twice at the same time; the first one stays
                self._blocks[key] = block
                self._nodes[block] = _Node(key, 1)
                if isinstance(before, int):
                    self._nodes[before].followers.add(block)
            before = block

    def release(self, blocks: Sequence[int], now: int | None) -> list[int]:
        """One holder fewer of a text's blocks; those that are free now.

        now: blocks that others may still come to are kept from then on; None keeps none.
        """
        free = []
        for block in reversed(blocks):  # ends first: a beginning is of use without its end
            node = self._nodes.get(block)
            if node is None:
                free.append(block)
                continue
            node.num_holders -= 1
            if node.num_holders == 0:
                if now is None:
                    free += [block, *self.withdraw(block)]
                else:
                    self._idle[block] = now
        while len(self._idle) > self._max_idle:
            free += self.forget_oldest()
        return free

    def forget_oldest(self) -> list[int]:
        """Give up the block that is idle for longest, and what only follows it; there must be one."""
        block = next(iter(self._idle))
        del self._idle[block]
        return [block, *self.withdraw(block)]

    def withdraw(self, block: int) -> list[int]:
        """The block is going to hold something else: nobody finds it any more, nor what follows it.

        What followed it and was idle is free now.
        """
        if block in self._nodes:
            before, _ = self._nodes[block].key
            if isinstance(before, int):
                self._nodes[before].followers.discard(block)
        free: list[int] = []
        gone = [block]
        while gone:
            node = self._nodes.pop(gone.pop(), None)
            if node is not None:
                del self._blocks[node.key]
                free += [one for one in node.followers if self._idle.pop(one, None) is not None]
                gone += node.followers
        return free
