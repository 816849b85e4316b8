"""Weights in a few bits: symmetric blocks for MatMulNBits, symmetric columns for MatMulInteger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_SIZE = 32
"""Weights that share a scale. MatMulNBits' kernels are written for 32 first of all."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix (rows, columns) whose rows are cut into blocks with one scale each."""

    packed: NDArray[np.uint8]
    """(rows, blocks, BLOCK_SIZE × bits / 8), the first of two values in the low half of a byte."""
    scales: Floats
    """(rows, blocks)"""
    bits: int
    num_columns: int

    def dequantised(self) -> Floats:
        """What a kernel computes with: (code − 2^(bits − 1)) × scale."""
        codes: NDArray[np.uint8] = self.packed
        if self.bits == 4:
            halves = (codes & 15, codes >> 4)
            codes = np.stack(halves, axis=-1).reshape(*codes.shape[:2], -1).astype(np.uint8)
        values: Floats = (codes.astype(np.float32) - 2 ** (self.bits - 1)) * self.scales[..., None]
        return values.reshape(len(values), -1)[:, : self.num_columns]


def to_blocks(matrix: Floats, bits: int) -> Blocks:
    """Round a matrix (rows, columns) to 4 or 8 bits in blocks along its rows."""
    num_rows, num_columns = matrix.shape
    padding = -num_columns % BLOCK_SIZE
    blocks = np.pad(matrix, ((0, 0), (0, padding))).reshape(num_rows, -1, BLOCK_SIZE)
    scales = _scales(blocks, bits)
    codes = _codes(blocks, scales, bits)
    if bits == 4:
        codes = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    return Blocks(codes, scales, bits, num_columns)


def _scales(blocks: Floats, bits: int) -> Floats:
    """The largest weight of a block gets the code of which there is one more: the lowest."""
    index = np.abs(blocks).argmax(-1, keepdims=True)
    largest = np.take_along_axis(blocks, index, -1)[..., 0]
    scales: Floats = (largest / -(2 ** (bits - 1))).astype(np.float32)
    return scales


def _codes(blocks: Floats, scales: Floats, bits: int) -> NDArray[np.uint8]:
    half = 2 ** (bits - 1)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    rounded = np.rint(blocks * inverse[..., None]) + half
    codes: NDArray[np.uint8] = np.clip(rounded, 0, 2 * half - 1).astype(np.uint8)
    return codes


def to_columns(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Codes (rows, columns) of 8 bits and the scale (rows,) of each output of a linear map."""
    scales = np.abs(matrix).max(-1) / 127
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.rint(matrix * inverse[:, None]).astype(np.int8), scales.astype(np.float32)
