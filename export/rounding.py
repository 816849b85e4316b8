"""Round a model's matrices to what the quantised graph will hold, in the torch model itself.

The rounding is idempotent, so the graph written of the rounded model holds exactly these values,
and the parity check and `tandem bench weights` judge the very numbers that the device computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from export.errors import ExportError
from export.quantise import Floats, to_blocks, to_columns


def round_weights(model: PreTrainedModel, weights: str) -> None:
    """Round every linear map and the token embedding in place; norms and biases stay."""
    if weights == "fp32":
        return
    with torch.no_grad():
        for weight, is_transposed in _matrices(model):
            matrix = weight.T if is_transposed else weight
            rounded = torch.from_numpy(_ROUNDED[weights](matrix.numpy()))
            weight.copy_(rounded.T if is_transposed else rounded)


def _matrices(model: PreTrainedModel) -> Iterator[tuple[torch.Tensor, bool]]:
    """Each matrix once, and whether it lies (inputs, outputs)."""
    seen: set[int] = set()
    embedding: Any = model.get_input_embeddings()
    for module in model.modules():
        linear = isinstance(module, (torch.nn.Linear, Conv1D))
        if not (linear or module is embedding):
            continue
        weight: Any = module.weight
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            yield weight.detach(), isinstance(module, Conv1D)


def _blocks(bits: int) -> Callable[[Floats], Floats]:
    return lambda matrix: to_blocks(matrix, bits).dequantised()


def _columns(matrix: Floats) -> Floats:
    codes, scales = to_columns(matrix)
    rounded: Floats = codes.astype(np.float32) * scales[:, None]
    return rounded


def _halves(matrix: Floats) -> Floats:
    with np.errstate(over="ignore"):
        rounded: Floats = matrix.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ExportError(
            "a weight lies beyond the range of float16 (65,504); use --weights fp32 or int4"
        )
    return rounded


_ROUNDED: dict[str, Callable[[Floats], Floats]] = {
    "fp16": _halves,
    "int8": _blocks(8),
    "int8-dynamic": _columns,
    "int4": _blocks(4),
}
