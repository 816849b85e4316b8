"""The shared table of doubles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.grid import GRID, Grid

GRIDS = [GRID, Grid(0, 1), Grid(2, 3), Grid(7, 31)]
any_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


@any_grid
def test_the_levels_ascend_from_0_to_1(grid: Grid) -> None:
    levels = grid.level(np.arange(grid.num_levels))
    assert levels[0] == 0.0 and levels[-1] == 1.0
    assert levels[1] == 2.0**-grid.num_octaves
    assert (np.diff(levels) > 0).all()
    assert (levels[2:] / levels[1:-1]).max() <= 1 + 2.0**-grid.mantissa_bits
    assert grid.num_levels <= 1 << grid.index_bits < 2 * grid.num_levels


@any_grid
def test_a_level_is_its_own_floor_and_ceiling(grid: Grid) -> None:
    index = np.arange(grid.num_levels)
    assert (grid.floor(grid.level(index)) == index).all()
    assert [grid.ceil_of(level) for level in grid.level(index).tolist()] == index.tolist()


@any_grid
def test_rounding_gives_the_floor_and_its_level(grid: Grid) -> None:
    values = np.concatenate(([0.0, 2.0**-40, 1.0], np.random.default_rng(1).random(50) ** 9))
    indices, levels = grid.rounded(values)
    assert indices.tolist() == grid.floor(values).tolist()
    assert levels.tolist() == grid.level(indices).tolist()


@any_grid
@given(st.floats(0, 1))
def test_rounding_brackets_the_value_by_neighbours(grid: Grid, value: float) -> None:
    below, above = grid.floor_of(value), grid.ceil_of(value)
    assert grid.floor(np.array([value])).tolist() == [below]
    lower, upper = grid.level(np.array([below, above])).tolist()
    assert lower <= value <= upper
    assert above - below == (lower != value)
