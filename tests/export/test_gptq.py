"""Rounding with feedback: the paper's algorithm, better products, and the grid of the file format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from export import gptq
from export.errors import ExportError
from export.gptq import DAMPING, compensated
from export.quantise import best_scales, block_size, to_blocks


def inputs(num_columns: int, *, seed: int = 0) -> Tensor:
    """Inputs (n, columns) that depend on each other and differ in size, as activations do."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_columns // 4, num_columns, generator=random)
    noise = 0.3 * torch.randn(500, num_columns, generator=random)
    sizes = torch.linspace(0.1, 3, num_columns)
    return (torch.randn(500, num_columns // 4, generator=random) @ mixing + noise) * sizes


def weights(num_rows: int, num_columns: int) -> Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(7))


def nearest(matrix: Tensor) -> Tensor:
    """Every weight to the nearest code of the same scales."""
    scales = torch.from_numpy(best_scales(matrix.numpy(), 4)[0])
    wide = scales.repeat_interleave(block_size(matrix.shape[1]), dim=1)[:, : matrix.shape[1]]
    return (matrix / wide).round().clamp(-8, 7) * wide


def product_error(matrix: Tensor, rounded: Tensor, x: Tensor) -> float:
    return float((x @ (matrix - rounded).T).square().sum() / (x @ matrix.T).square().sum())


def plainly(matrix: Tensor, gram: Tensor) -> Tensor:
    """Algorithm 1 one column at a time, in float64, by the inverse Hessian that it is derived from."""
    size = block_size(matrix.shape[1])
    scales, largest = map(torch.from_numpy, best_scales(matrix.numpy(), 4))
    order = gram.diagonal().argsort(descending=True)
    left, hessian = matrix.double().clone(), gram.double()
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    out = torch.zeros_like(left)
    remaining = order.tolist()
    while remaining:
        column, block = remaining[0], remaining[0] // size
        inverse = torch.linalg.inv(hessian[remaining][:, remaining])
        codes = (left[:, column] / scales[:, block]).round().clamp(-8, 7)
        codes[largest[:, block] == column % size] = -8
        out[:, column] = codes * scales[:, block]
        error = (left[:, column] - out[:, column]) / inverse[0, 0]
        left[:, remaining] -= error[:, None] * inverse[0]
        remaining = remaining[1:]
    return out.float()


@pytest.mark.parametrize("num_columns", [40, 64, 192])
def test_it_is_the_papers_algorithm(num_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "COLUMNS_AT_ONCE", 48)
    monkeypatch.setattr(gptq, "ROWS_AT_ONCE", 5)
    matrix, x = weights(12, num_columns), inputs(num_columns)
    expected = plainly(matrix, x.T @ x)
    assert not torch.equal(expected, nearest(matrix))
    # A sum that lies between two codes may fall to either side in float32.
    differs = (compensated(matrix, x.T @ x, 4) - expected).abs() > 1e-6
    assert differs.float().mean() < 0.005


def test_products_come_out_nearer_than_with_nearest_weights() -> None:
    matrix, x = weights(64, 256), inputs(256)
    fitted = product_error(matrix, compensated(matrix, x.T @ x, 4), x)
    assert fitted < 0.4 * product_error(matrix, nearest(matrix), x)


def test_inputs_that_do_not_depend_on_each_other_leave_nothing_to_make_up_for() -> None:
    matrix = weights(16, 128)
    rounded = compensated(matrix, torch.eye(128), 4)
    assert ((rounded - nearest(matrix)).abs() > 1e-6).float().mean() < 0.03  # the pinned ones alone


@pytest.mark.parametrize("num_columns", [64, 96, 130])
def test_the_file_format_holds_it_exactly_and_again(num_columns: int) -> None:
    matrix, x = weights(20, num_columns), inputs(num_columns)
    matrix[3] = 0
    rounded = compensated(matrix, x.T @ x, 4)
    stored = torch.from_numpy(to_blocks(rounded.numpy(), 4).dequantised())
    assert torch.equal(stored, rounded)
    assert torch.equal(compensated(rounded, x.T @ x, 4), rounded)


def test_sums_that_rounding_made_indefinite_are_damped_more() -> None:
    matrix, gram = weights(4, 64), torch.eye(64)
    gram[0, 0] = -0.5
    rounded = compensated(matrix, gram, 4)
    assert (rounded - matrix).abs().max() < matrix.abs().max() / 4


def test_activations_without_bounds_are_said() -> None:
    gram = torch.eye(64)
    gram[3, 3] = float("inf")
    with pytest.raises(ExportError, match=r"leave the range of float32.*--calibration none"):
        compensated(weights(4, 64), gram, 4)


def test_inputs_that_never_occur_are_harmless() -> None:
    matrix = weights(4, 64)
    assert torch.isfinite(compensated(matrix, torch.zeros(64, 64), 4)).all()
    gram = torch.zeros(64, 64)
    gram[5, 5] = 1
    assert torch.isfinite(compensated(matrix, gram, 4)).all()
