"""Codes, scales and their bytes, and that rounding twice is rounding once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from export.quantise import best_scales, block_size, to_blocks, to_columns

MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 70)),
    elements=st.floats(-1000, 1000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20),
)


def ramp(num_columns: int) -> np.ndarray:
    return np.linspace(-1, 0.7, num_columns, dtype=np.float32)[None]


def test_the_largest_weight_gets_the_lowest_code_and_stays_exact() -> None:
    row = np.zeros((1, 64), np.float32)
    row[0, :3] = 0.8, -0.2, 0.1
    blocks = to_blocks(row, 4)
    assert blocks.scales == np.float32(-0.1)
    # Codes 0, 10 and 7; the first of two in the low half of the byte; 8 is zero.
    assert blocks.packed[0, 0, :2].tolist() == [0xA0, 0x87]
    np.testing.assert_allclose(blocks.dequantised()[0, :4], [0.8, -0.2, 0.1, 0], atol=1e-7)


@pytest.mark.parametrize(
    ("num_columns", "size"),
    [(32, 32), (64, 64), (96, 32), (384, 64), (512, 128), (576, 128), (4864, 128), (70, 32)],
)
def test_blocks_are_as_long_as_the_columns_allow(num_columns: int, size: int) -> None:
    assert block_size(num_columns) == size
    blocks = to_blocks(np.repeat(ramp(num_columns), 2, axis=0), 4)
    assert blocks.packed.shape == (2, -(-num_columns // size), size // 2)


@pytest.mark.parametrize(("bits", "shape"), [(4, (3, 2, 16)), (8, (3, 2, 32))])
def test_the_last_block_is_padded(bits: int, shape: tuple[int, ...]) -> None:
    matrix = np.repeat(ramp(40), 3, axis=0)
    blocks = to_blocks(matrix, bits)
    assert blocks.packed.shape == shape
    assert blocks.scales.shape == (3, 2)
    assert blocks.dequantised().shape == (3, 40)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_off_by_half_a_step_or_a_whole_one_at_the_far_end(bits: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    blocks = to_blocks(matrix, bits)
    error = np.abs(blocks.dequantised() - matrix).reshape(50, 2, 64)
    step = np.abs(blocks.scales)[..., None]
    at_end = matrix.reshape(error.shape) / blocks.scales[..., None] > 2 ** (bits - 1) - 1.5
    assert (error <= step * np.where(at_end, 1, 0.5) * 1.0001).all()


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=25)
@given(matrix=MATRICES)
def test_rounding_to_blocks_twice_is_rounding_once(bits: int, matrix: np.ndarray) -> None:
    once = to_blocks(matrix, bits).dequantised()
    np.testing.assert_array_equal(to_blocks(once, bits).dequantised(), once)


@settings(max_examples=25)
@given(matrix=MATRICES)
def test_best_scales_of_a_rounded_matrix_are_its_own(matrix: np.ndarray) -> None:
    rounded = to_blocks(matrix, 4)
    scales, _ = best_scales(rounded.dequantised(), 4)
    np.testing.assert_array_equal(scales, rounded.scales)


def test_best_scales_cut_the_largest_weight_where_that_pays() -> None:
    matrix = np.random.default_rng(0).standard_normal((200, 128)).astype(np.float32)
    scales, largest = best_scales(matrix, 4)
    blocks = matrix.reshape(200, 2, 64)
    np.testing.assert_array_equal(largest, np.abs(blocks).argmax(-1))

    def errors(scales: np.ndarray) -> np.ndarray:
        codes = np.clip(np.rint(blocks / scales[..., None]), -8, 7)
        error: np.ndarray = np.square(codes * scales[..., None] - blocks).sum(-1)
        return error

    plain = to_blocks(matrix, 4).scales
    assert (errors(scales) <= errors(plain) * 1.0001).all()
    assert errors(scales).sum() < 0.92 * errors(plain).sum()
    # The lowest code must be in reach of the largest weight, or the scale could not be found again.
    farthest = np.take_along_axis(blocks, largest[..., None], -1)[..., 0]
    assert (np.rint(farthest / scales) <= -8).all()


@settings(max_examples=25)
@given(matrix=MATRICES)
def test_rounding_to_columns_twice_keeps_the_codes(matrix: np.ndarray) -> None:
    codes, scales = to_columns(matrix)
    again, new_scales = to_columns(codes * scales[:, None])
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_allclose(new_scales, scales, rtol=1e-6)


def test_columns_use_the_whole_range() -> None:
    codes, scales = to_columns(np.array([[1.0, -0.5, 0.25], [0, 0, 0]], np.float32))
    assert codes.tolist() == [[127, -64, 32], [0, 0, 0]]
    np.testing.assert_allclose(scales, [1 / 127, 0])


def test_a_matrix_of_zeros_stays_zero() -> None:
    zeros = np.zeros((2, 64), np.float32)
    np.testing.assert_array_equal(to_blocks(zeros, 4).dequantised(), zeros)
