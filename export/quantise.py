"""Weights in a few bits: symmetric blocks for MatMulNBits, symmetric columns for MatMulInteger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BITS = {"int8": 8, "int4": 4}
"""Of the kinds of weights that lie in blocks."""


def block_size(num_columns: int) -> int:
    """Weights that share a scale: 128 where a row has four such blocks or more, else 64 or 32.

    The last block may be filled up. What larger ones save and cost: docs/device.md.
    """
    if num_columns >= 4 * 128:
        return 128
    return 32 if num_columns % 64 else 64


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix (rows, columns) whose rows are cut into blocks with one scale each."""

    packed: NDArray[np.uint8]
    """(rows, blocks, block size × bits / 8), the first of two values in the low half of a byte."""
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
    """Round a matrix (rows, columns) to 4 or 8 bits in blocks along its rows.

    The largest weight of a block gets the code of which there is one more: the lowest.
    """
    blocks = _cut(matrix)
    scales = _widest(blocks, bits)[1]
    codes = _codes(blocks, scales, bits)
    if bits == 4:
        codes = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    return Blocks(codes, scales, bits, matrix.shape[1])


def best_scales(matrix: Floats, bits: int) -> tuple[Floats, NDArray[np.int64]]:
    """Of each block, the scale of the least square error and where its largest weight lies.

    Scales and places are (rows, blocks). The largest weight may be cut to the lowest code, never
    left above it: `to_blocks` of the rounded matrix finds the same scales.
    """
    blocks = _cut(matrix)
    index, widest = _widest(blocks, bits)
    best, least = widest, np.full(widest.shape, np.inf, np.float32)
    for share in np.linspace(1, 0.5, 21, dtype=np.float32):
        scales = widest * share
        codes = _codes(blocks, scales, bits).astype(np.float32) - 2 ** (bits - 1)
        error = np.square(codes * scales[..., None] - blocks).sum(-1)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best, index


def _cut(matrix: Floats) -> Floats:
    """(rows, blocks, block size), the last block filled up with zeros."""
    num_rows, num_columns = matrix.shape
    size = block_size(num_columns)
    return np.pad(matrix, ((0, 0), (0, -num_columns % size))).reshape(num_rows, -1, size)


def _widest(blocks: Floats, bits: int) -> tuple[NDArray[np.int64], Floats]:
    """Of each block, where its largest weight lies, and the scale that gives it the lowest code."""
    index = np.abs(blocks).argmax(-1)
    largest = np.take_along_axis(blocks, index[..., None], -1)[..., 0]
    return index, largest / -np.float32(2 ** (bits - 1))


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
