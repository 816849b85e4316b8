"""Rounding in which every weight makes up for the errors of those that were rounded before it.

GPTQ (arXiv 2210.17323, algorithm 1), over the inputs in the order of their size, with the scales fixed
beforehand. Nearest rounding asks how far a weight is off; this asks how far the product is off, over
inputs that the matrix really meets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import ExportError
from export.quantise import best_scales, block_size

DAMPING = 0.01
"""Of the mean square input, added to every input's: directions that hardly occur bind nothing."""
COLUMNS_AT_ONCE = 128
"""The paper's lazy batch: errors reach the columns after it in one product."""
ROWS_AT_ONCE = 8192
"""Rows do not touch each other; this bounds the memory that a large vocabulary takes."""


def compensated(matrix: Tensor, gram: Tensor, bits: int) -> Tensor:
    """A matrix (rows, columns) on the grid of its blocks, for inputs x with Σ x xᵀ = gram.

    Each block keeps one weight at its lowest code, so that `to_blocks` finds the same scales again.
    """
    order = gram.diagonal().argsort(descending=True)
    feedback = _feedback(gram[order][:, order])
    parts = [_round(rows, order, feedback, bits) for rows in matrix.split(ROWS_AT_ONCE)]
    return torch.cat(parts)


def _feedback(gram: Tensor) -> Tensor:
    """(columns, columns): of the error at row's column, how much column's weight takes off.

    The paper's rows of the Cholesky factor of the inverse Hessian over their diagonals. With
    gram = R Rᵀ, R upper triangular, that factor is R⁻¹.
    """
    if not gram.isfinite().all():
        raise ExportError(
            "the model's activations leave the range of float32 on the text that int4 is fitted to; "
            "use --calibration none, or another text"
        )
    gram = gram.double()
    damping = DAMPING * gram.diagonal().mean().clamp_min(1e-30)
    failed = True
    while failed:  # sums of float32 may leave a direction below zero
        gram.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(gram.flip(0, 1))
        damping *= 10
    upper = lower.flip(0, 1)
    factor = torch.linalg.solve_triangular(upper, torch.eye(len(gram)).double(), upper=True)
    normed: Tensor = factor / factor.diagonal()[:, None]
    return normed.float()


def _round(rows: Tensor, order: Tensor, feedback: Tensor, bits: int) -> Tensor:
    lowest, highest = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    scales, is_pinned = (part[order] for part in _scales(rows, bits))
    inverse = torch.where(scales == 0, 0, 1 / scales)
    weights = rows.T[order]
    for start in range(0, len(order), COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, len(order))
        errors = torch.empty(end - start, len(rows))
        for column in range(start, end):
            codes = (weights[column] * inverse[column]).round_().clamp_(lowest, highest)
            codes[is_pinned[column]] = lowest
            rounded = codes * scales[column]
            error = errors[column - start] = weights[column] - rounded
            weights[column] = rounded
            weights[column + 1 : end] -= feedback[column, column + 1 : end, None] * error
        weights[end:] -= feedback[start:end, end:].T @ errors
    return weights[order.argsort()].T


def _scales(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale (columns, rows) of every weight, and whether it is the one that sets its block's."""
    num_rows, num_columns = rows.shape
    size = block_size(num_columns)
    scales, largest = best_scales(rows.numpy(), bits)
    wide = torch.from_numpy(scales).repeat_interleave(size, dim=1)[:, :num_columns]
    pinned = torch.zeros(num_rows, scales.shape[1] * size, dtype=torch.bool)
    starts = torch.arange(0, pinned.shape[1], size)
    pinned.scatter_(1, torch.from_numpy(largest) + starts, value=True)
    return wide.T.contiguous(), pinned[:, :num_columns].T
