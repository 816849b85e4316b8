"""The layout of ragged pieces in one forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_server.batch import Piece, group_rows, pack
from edge_server.blocks import BLOCK_LEN, ZERO_BLOCK, num_blocks_for

CPU = torch.device("cpu")


def piece(start: int, count: int, num_rows: int = 0, first_block: int = 1) -> Piece:
    blocks = list(range(first_block, first_block + num_blocks_for(start + count)))
    return Piece(list(range(100 + start, 100 + start + count)), start, blocks, num_rows)


def test_positions_and_places_are_each_session_s_own() -> None:
    packed = pack([piece(3, 2, first_block=5), piece(BLOCK_LEN - 1, 2, first_block=7)], CPU)
    assert packed.token_ids.tolist() == [[103, 104, 100 + BLOCK_LEN - 1, 100 + BLOCK_LEN]]
    assert packed.positions.tolist() == [[3, 4, BLOCK_LEN - 1, BLOCK_LEN]]
    last, first = 8 * BLOCK_LEN - 1, 8 * BLOCK_LEN  # the end of block 7, the start of block 8
    assert packed.places.tolist() == [5 * BLOCK_LEN + 3, 5 * BLOCK_LEN + 4, last, first]


def test_wanted_rows_are_the_last_ones_of_each_piece() -> None:
    packed = pack([piece(0, 4, num_rows=2), piece(0, 3), piece(5, 1, num_rows=1)], CPU)
    assert packed.wanted.tolist() == [2, 3, 7]


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * BLOCK_LEN), st.integers(1, 2 * BLOCK_LEN)),
        min_size=1,
        max_size=12,
    )
)
def test_every_token_finds_its_own_output_and_its_session_s_keys(
    shapes: list[tuple[int, int]],
) -> None:
    pieces = [
        piece(start, count, first_block=1 + 10 * i) for i, (start, count) in enumerate(shapes)
    ]
    packed = pack(pieces, CPU)
    queries = torch.cat([group.tokens.flatten() for group in packed.groups])
    num_tokens = sum(count for _, count in shapes)
    order = torch.arange(num_tokens) if packed.order is None else packed.order
    assert queries[order].tolist() == list(range(num_tokens))
    owner = np.repeat(np.arange(len(shapes)), [count for _, count in shapes])
    for group in packed.groups:
        assert group.kv_len <= packed.kv_len
        for row, blocks in zip(group.tokens.tolist(), group.tables.tolist(), strict=True):
            (session,) = set(owner[row])
            own = list(pieces[session].blocks)
            assert blocks == own + [ZERO_BLOCK] * (len(blocks) - len(own))


def test_like_rows_form_one_group_and_a_long_prompt_stands_apart() -> None:
    rounds = [(5, 200 + 10 * i) for i in range(32)]
    assert len(group_rows(rounds)) == 1
    groups = group_rows([*rounds, (512, 4096)])
    assert [32] in groups
    assert len(groups) == 2


def test_a_group_costs_less_than_its_padding() -> None:
    assert len(group_rows([(1, 100), (1, 120)])) == 1
    assert len(group_rows([(1, 100), (1, 30_000)])) == 2


def test_a_cpu_pads_less_than_a_gpu() -> None:
    pieces = [Piece((1,) * 5, start, tuple(range(1, 21)), 5) for start in (60, 150, 600)]
    assert len(pack(pieces, torch.device("cpu")).groups) == 3
    assert len(group_rows([(5, piece.end) for piece in pieces])) == 1


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(1, 9000)), min_size=1, max_size=40))
def test_every_row_is_in_exactly_one_group(shapes: list[tuple[int, int]]) -> None:
    assert sorted(i for group in group_rows(shapes) for i in group) == list(range(len(shapes)))


def test_tokens_in_order_are_not_moved() -> None:
    assert pack([piece(0, 4)], CPU).order is None
    assert pack([piece(0, 4), piece(0, 1)], CPU).order is not None


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (BLOCK_LEN, 1)])
def test_blocks_are_counted_up(num_tokens: int, num_blocks: int) -> None:
    assert num_blocks_for(num_tokens) == num_blocks
    assert num_blocks_for(num_tokens + BLOCK_LEN) == num_blocks + 1
