"""How a batch of ragged pieces is laid out for one forward pass; no model code.

The new tokens of all sessions stand one behind the other in a single row, so that nothing is padded
in the layers that treat tokens alone (almost all of the work). Attention treats sessions: rows of
like shape are padded to one another and form a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_server.blocks import BLOCK_LEN, ZERO_BLOCK, num_blocks_for

_GROUP_COST, _GROUP_COST_CPU = 16_384, 1_024
"""What one more group costs, in units of one query times one key: kernels, not arithmetic. A CPU does
less at a time, so that padding costs it more."""
_ROW_COST = 8
"""Fetching a key costs as much as that many queries on it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The new tokens of one session and where they go."""

    token_ids: Sequence[int]
    start: int
    """Position of the first of them; those before are in the cache."""
    blocks: Sequence[int]
    """The session's blocks, enough for the new tokens too."""
    num_rows: int
    """Of how many last positions logits are wanted."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one attention call."""

    tokens: Tensor
    """Which packed token is the query (rows, queries); shorter rows repeat their last one."""
    tables: Tensor
    """The blocks of keys (rows, blocks); shorter rows end with ZERO_BLOCK."""
    stretch: tuple[int, int] | None = None
    """As of `stretch_of`."""

    @property
    def kv_len(self) -> int:
        return self.tables.shape[1] * BLOCK_LEN


@dataclass(frozen=True, slots=True)
class Packed:
    """One forward pass over n tokens."""

    token_ids: Tensor
    """(1, n)"""
    positions: Tensor
    """(1, n)"""
    places: Tensor
    """Where their keys and values go (n,): block · BLOCK_LEN + offset."""
    wanted: Tensor
    """Which packed tokens' logits are wanted, piece by piece."""
    groups: tuple[Group, ...]
    order: Tensor | None
    """Where in the groups' queries, one group behind the other, each packed token stands (n,);
    None where they stand in the same order."""
    kv_len: int
    """The longest group's."""


def pack(pieces: Sequence[Piece], device: torch.device) -> Packed:
    """The layout of these pieces; each has at least one token."""
    positions = [np.arange(piece.start, piece.end) for piece in pieces]
    places = [
        np.asarray(piece.blocks)[at // BLOCK_LEN] * BLOCK_LEN + at % BLOCK_LEN
        for piece, at in zip(pieces, positions, strict=True)
    ]
    ends = np.cumsum([len(piece.token_ids) for piece in pieces])
    wanted = [np.arange(end - piece.num_rows, end) for piece, end in zip(pieces, ends, strict=True)]
    shapes = [(len(piece.token_ids), piece.end) for piece in pieces]
    rows = group_rows(shapes, _GROUP_COST_CPU if device.type == "cpu" else _GROUP_COST)
    tokens = [_padded_queries(pieces, ends, members) for members in rows]
    tables = [_padded_tables(pieces, members) for members in rows]
    order = _order(np.concatenate([group.ravel() for group in tokens]), int(ends[-1]))

    def on_device(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    groups = tuple(
        Group(on_device(queries), on_device(blocks), stretch_of(blocks))
        for queries, blocks in zip(tokens, tables, strict=True)
    )
    return Packed(
        token_ids=on_device(np.concatenate([piece.token_ids for piece in pieces]))[None],
        positions=on_device(np.concatenate(positions))[None],
        places=on_device(np.concatenate(places)),
        wanted=on_device(np.concatenate(wanted)),
        groups=groups,
        order=None if order is None else on_device(order),
        kv_len=max(group.kv_len for group in groups),
    )


def stretch_of(tables: NDArray[np.int64]) -> tuple[int, int] | None:
    """(first block, blocks from row to row) where the pool itself can be read as these rows.

    That is where the blocks of each row lie one behind the other, and the rows equally far apart: of
    one session alone mostly, of several by chance. None where they must be gathered.
    """
    steps = np.diff(tables[:, 0])
    step = int(steps[0]) if len(steps) else 0
    if step < 0 or (steps != step).any() or (np.diff(tables, axis=1) != 1).any():
        return None
    return int(tables[0, 0]), step


def group_rows(shapes: Sequence[tuple[int, int]], group_cost: int = _GROUP_COST) -> list[list[int]]:
    """Indices of shapes (queries, keys), grouped so that padding costs less than more groups.

    group_cost: of one more group, in units of one query times one key.
    """
    groups: list[list[int]] = []
    widest = (0, 0)
    for index in sorted(range(len(shapes)), key=lambda i: shapes[i]):
        shape = shapes[index]
        joined = (max(widest[0], shape[0]), max(widest[1], shape[1]))
        if groups:
            size = len(groups[-1])
            apart = size * _cost(widest) + _cost(shape) + group_cost
            if (size + 1) * _cost(joined) <= apart:
                groups[-1].append(index)
                widest = joined
                continue
        groups.append([index])
        widest = shape
    return groups


def _cost(shape: tuple[int, int]) -> int:
    num_queries, num_keys = shape
    return (num_queries + _ROW_COST) * num_keys


def _order(queries: NDArray[np.int64], num_tokens: int) -> NDArray[np.int64] | None:
    """Where each packed token stands among the queries; None if at its own number."""
    if len(queries) == num_tokens and (queries == np.arange(num_tokens)).all():
        return None
    order = np.empty(num_tokens, np.int64)
    order[queries] = np.arange(len(queries))  # of repeated queries, any will do: they are equal
    return order


def _padded_queries(
    pieces: Sequence[Piece], ends: NDArray[np.int64], members: Sequence[int]
) -> NDArray[np.int64]:
    num_queries = np.array([len(pieces[i].token_ids) for i in members])
    columns = np.arange(num_queries.max())
    queries: NDArray[np.int64] = np.minimum(columns, num_queries[:, None] - 1)
    queries += (ends[members] - num_queries)[:, None]
    return queries


def _padded_tables(pieces: Sequence[Piece], members: Sequence[int]) -> NDArray[np.int64]:
    num_blocks = [num_blocks_for(pieces[i].end) for i in members]
    tables = np.full((len(members), max(num_blocks)), ZERO_BLOCK, np.int64)
    for row, (i, count) in enumerate(zip(members, num_blocks, strict=True)):
        tables[row, :count] = pieces[i].blocks[:count]
    return tables
