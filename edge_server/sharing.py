"""Which cache blocks several sessions of one tenant hold: beginnings that their texts have in common.

A block may be shared once a prompt has filled it. It is found by the text up to its end, compared
token by token, and by the tenant: how long a first token takes tells whether somebody else has sent
the same beginning (arXiv 2411.18191 and CVE-2025-46570 measure it), so a beginning is never shared
between bearer tokens, nor between clients without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edge_server.cache import BLOCK_LEN

_Key: TypeAlias = "tuple[bytes | int, tuple[int, ...]]"
"""The block before it (a tenant for the first), and its tokens."""


@dataclass(slots=True)
class _Node:
    key: _Key
    num_holders: int


class SharedBlocks:
    """Counts the sessions that hold a block. A block no session holds is forgotten."""

    def __init__(self) -> None:
        self._blocks: dict[_Key, int] = {}
        self._nodes: dict[int, _Node] = {}

    def __contains__(self, block: int) -> bool:
        """Whether other sessions hold the block, or may come to."""
        return block in self._nodes

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
            before = block

    def release(self, blocks: Iterable[int]) -> list[int]:
        """One holder fewer; those blocks that nobody holds any more."""
        return [block for block in blocks if self._is_free(block)]

    def _is_free(self, block: int) -> bool:
        node = self._nodes.get(block)
        if node is None:
            return True
        node.num_holders -= 1
        if node.num_holders == 0:
            self.withdraw(block)
            return True
        return False

    def withdraw(self, block: int) -> None:
        """Its only holder is going to write to it, or gives it back."""
        node = self._nodes.pop(block, None)
        if node is not None:
            del self._blocks[node.key]
