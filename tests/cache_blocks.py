"""Writing whole blocks of a cache."""

from __future__ import annotations

import torch

from edge_server.blocks import BLOCK_LEN
from edge_server.cache import PagedCache

HEADS, SIZE = 2, 4


def write(cache: PagedCache, block: int, value: float) -> None:
    """Fill one block of layer 0; values are one more than keys."""
    cache.begin(torch.arange(BLOCK_LEN) + block * BLOCK_LEN, BLOCK_LEN)
    states = torch.full((1, HEADS, BLOCK_LEN, SIZE), value)
    cache.update(states, states + 1, 0)
