"""How the matrices of a fused graph are stored and multiplied: one class per kind of weights.

Embedding and head of a tied model are stored once, whatever the kind.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from export.decoder import Floats, Linear
from export.onnx_writer import MICROSOFT, OnnxWriter
from export.quantise import BITS, block_size, to_blocks, to_columns

PLAIN: dict[str, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
"""Kinds of weights that are stored as plain numbers, and the type of those."""


class WeightFormat(Protocol):
    """Writes the matrices of one graph."""

    dtype: np.dtype[Any]
    """Of everything that flows through the graph, and so of norms, rotary tables and cache."""

    def linear(self, x: str, linear: Linear, name: str) -> str:
        """W x + b for every row of x; returns the output's name, which is `name`."""
        ...

    def embed(self, ids: str, table: Floats, name: str) -> str:
        """Ids (1, n) → rows of the table (vocabulary, hidden), (1, n, hidden)."""
        ...

    def tied(self, x: str, head: Linear, name: str) -> str:
        """As `linear`, with the bytes that `embed` has stored."""
        ...


class Plain:
    """Matrices as they are, in float32 or float16."""

    def __init__(self, writer: OnnxWriter, dtype: np.dtype[Any]) -> None:
        self._writer = writer
        self.dtype = dtype

    def linear(self, x: str, linear: Linear, name: str) -> str:
        weight = self._writer.weight(f"{name}.weight", linear.weight.T.astype(self.dtype))
        return self._multiply("MatMul", x, weight, linear, name)

    def embed(self, ids: str, table: Floats, name: str) -> str:
        self._table = self._writer.weight(f"{name}.weight", table.astype(self.dtype))
        return self._writer.op("Gather", self._table, ids, name=name)

    def tied(self, x: str, head: Linear, name: str) -> str:
        return self._multiply("FusedMatMul", x, self._table, head, name)

    def _multiply(self, kind: str, x: str, weight: str, linear: Linear, name: str) -> str:
        product = name if linear.bias is None else f"{name}.product"
        fused: dict[str, Any] = {"domain": MICROSOFT, "transB": 1} if kind == "FusedMatMul" else {}
        self._writer.op(kind, x, weight, name=product, **fused)
        if linear.bias is not None:
            bias = self._writer.weight(f"{name}.bias", linear.bias.astype(self.dtype))
            self._writer.op("Add", product, bias, name=name)
        return name


class BlockQuantised:
    """4 or 8 bits in blocks along the inputs, for MatMulNBits."""

    dtype = PLAIN["fp32"]

    def __init__(self, writer: OnnxWriter, bits: int, accuracy_level: int) -> None:
        self._writer = writer
        self._bits = bits
        self._accuracy_level = accuracy_level

    def linear(self, x: str, linear: Linear, name: str) -> str:
        return self._multiply(x, self._store(linear.weight, name), linear, name)

    def embed(self, ids: str, table: Floats, name: str) -> str:
        num_rows, num_columns = table.shape
        size = block_size(num_columns)
        num_stored = -(-num_columns // size) * size
        is_filled = num_stored > num_columns
        packed, scales = self._table = self._store(table, name)
        rows = (num_rows, num_stored * self._bits // 8)
        row = self._writer.op(
            "GatherBlockQuantized",
            self._writer.view(f"{name}.rows", packed, rows),
            ids,
            scales,
            name=f"{name}.filled" if is_filled else name,
            domain=MICROSOFT,
            bits=self._bits,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        )
        return self._cut(row, num_columns, name) if is_filled else row

    def _cut(self, row: str, num_columns: int, name: str) -> str:
        """Without the zeros that fill the last block up."""
        bounds = {"start": 0, "end": num_columns, "axis": 2}
        numbers = [
            self._writer.weight(f"{name}.{bound}", np.array([at], np.int64))
            for bound, at in bounds.items()
        ]
        return self._writer.op("Slice", row, *numbers, name=name)

    def tied(self, x: str, head: Linear, name: str) -> str:
        return self._multiply(x, self._table, head, name)

    def _store(self, matrix: Floats, name: str) -> tuple[str, str]:
        blocks = to_blocks(matrix, self._bits)
        packed = self._writer.weight(f"{name}.packed", blocks.packed)
        return packed, self._writer.weight(f"{name}.scales", blocks.scales)

    def _multiply(self, x: str, weight: tuple[str, str], linear: Linear, name: str) -> str:
        bias: tuple[str, ...] = ()
        if linear.bias is not None:
            bias = ("", "", self._writer.weight(f"{name}.bias", linear.bias))
        return self._writer.op(
            "MatMulNBits",
            *(x, *weight, *bias),
            name=name,
            domain=MICROSOFT,
            K=linear.weight.shape[1],
            N=linear.weight.shape[0],
            bits=self._bits,
            block_size=block_size(linear.weight.shape[1]),
            accuracy_level=self._accuracy_level,
        )


class ColumnQuantised:
    """8 bits with one scale per output; activations are rounded to 8 bits as a whole, each run."""

    dtype = PLAIN["fp32"]

    def __init__(self, writer: OnnxWriter) -> None:
        self._writer = writer

    def linear(self, x: str, linear: Linear, name: str) -> str:
        return self._multiply(x, self._store(linear.weight, name), linear, name)

    def embed(self, ids: str, table: Floats, name: str) -> str:
        """Columns of the codes as the head multiplies with them."""
        writer = self._writer
        codes, scales = self._table = self._store(table, name)
        columns = writer.op("Gather", codes, ids, name=f"{name}.columns", axis=1)
        rows = writer.op("Transpose", columns, name=f"{name}.rows", perm=[1, 2, 0])
        wide = writer.op("Cast", rows, name=f"{name}.wide", to=TensorProto.FLOAT)
        scale = writer.op("Gather", scales, ids, name=f"{name}.scale")
        last = writer.weight(f"{name}.last_axis", np.array([-1], np.int64))
        column = writer.op("Unsqueeze", scale, last, name=f"{name}.scale_column")
        return writer.op("Mul", wide, column, name=name)

    def tied(self, x: str, head: Linear, name: str) -> str:
        return self._multiply(x, self._table, head, name)

    def _store(self, matrix: Floats, name: str) -> tuple[str, str]:
        codes, scales = to_columns(matrix)
        stored = self._writer.weight(f"{name}.codes", codes.T)
        return stored, self._writer.weight(f"{name}.scales", scales)

    def _multiply(self, x: str, weight: tuple[str, str], linear: Linear, name: str) -> str:
        bias: tuple[str, ...] = ()
        if linear.bias is not None:
            bias = ("", self._writer.weight(f"{name}.bias", linear.bias))
        return self._writer.op(
            "DynamicQuantizeMatMul", *(x, *weight, *bias), name=name, domain=MICROSOFT
        )


def weight_format(writer: OnnxWriter, weights: str, accuracy_level: int) -> WeightFormat:
    """The class for a kind of weights, as `--weights` names it."""
    if weights in PLAIN:
        return Plain(writer, PLAIN[weights])
    if weights == "int8-dynamic":
        return ColumnQuantised(writer)
    return BlockQuantised(writer, BITS[weights], accuracy_level)
