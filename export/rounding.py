"""Round a model's matrices to what the quantised graph will hold, in the torch model itself.

The rounding is idempotent, so the graph written of the rounded model holds exactly these values,
and the parity check and `tandem bench weights` judge the very numbers that the device computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from export import gptq
from export.calibration import Told, grams
from export.choose import CALIBRATED
from export.errors import ExportError
from export.quantise import BITS, Floats, to_blocks, to_columns

GRAM_BYTES = 1 << 30
"""For what matrices met, or as much as they take themselves: so many are fitted on one reading."""


@dataclass(slots=True)
class _Matrix:
    weight: Tensor
    is_transposed: bool
    """It lies (inputs, outputs)."""
    module: torch.nn.Module | None = None
    """A linear map that multiplies with it; None for an embedding of its own."""

    @property
    def rows(self) -> Tensor:
        """View (outputs, inputs)."""
        return self.weight.T if self.is_transposed else self.weight

    @property
    def gram_bytes(self) -> int:
        return 4 * self.rows.shape[1] ** 2


def round_weights(
    model: PreTrainedModel, weights: str, texts: Tensor | None = None, told: Told = lambda *_: None
) -> None:
    """Round every linear map and the token embedding in place; norms and biases stay.

    With texts, ids (texts, tokens), weights in CALIBRATED are fitted to what the matrices meet there;
    else each goes to the nearest value. `told` hears of every matrix.
    """
    if weights == "fp32":
        return
    matrices = _matrices(model)
    num_done = 0
    for together in _groups(matrices):
        met: dict[torch.nn.Module, Tensor] = {}
        if texts is not None and weights in CALIBRATED:
            met = grams(model, [m.module for m in together if m.module is not None], texts)
        for matrix in together:
            gram = met.get(matrix.module) if matrix.module is not None else None
            with torch.no_grad():
                matrix.rows.copy_(_rounded(matrix.rows, gram, weights))
            num_done += 1
            told(num_done, len(matrices))


def _rounded(rows: Tensor, gram: Tensor | None, weights: str) -> Tensor:
    if gram is not None:
        return gptq.compensated(rows, gram, BITS[weights])
    return torch.from_numpy(_NEAREST[weights](rows.numpy()))


def _matrices(model: PreTrainedModel) -> list[_Matrix]:
    """Each matrix once, in the model's order."""
    found: dict[int, _Matrix] = {}
    embedding: Any = model.get_input_embeddings()
    for module in model.modules():
        is_linear = isinstance(module, (torch.nn.Linear, Conv1D))
        if not (is_linear or module is embedding):
            continue
        weight: Any = module.weight
        new = _Matrix(weight.detach(), isinstance(module, Conv1D))
        matrix = found.setdefault(weight.data_ptr(), new)
        if is_linear and matrix.module is None:
            matrix.module = module
    return list(found.values())


def _groups(matrices: list[_Matrix]) -> Iterator[list[_Matrix]]:
    """Neighbours, as many as memory allows; later ones meet what the rounded ones before make."""
    allowed_bytes = max(GRAM_BYTES, sum(matrix.weight.nbytes for matrix in matrices))
    together: list[_Matrix] = []
    for matrix in matrices:
        if together and sum(m.gram_bytes for m in together) + matrix.gram_bytes > allowed_bytes:
            yield together
            together = []
        together.append(matrix)
    yield together


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


_NEAREST: dict[str, Callable[[Floats], Floats]] = {
    "fp16": _halves,
    "int8-dynamic": _columns,
    **{weights: _blocks(bits) for weights, bits in BITS.items()},
}
