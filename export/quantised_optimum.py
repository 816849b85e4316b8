"""Replace the matrices of a graph that optimum traced by quantised ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, numpy_helper

from export.decoder import Floats, Linear
from export.onnx_writer import OnnxWriter
from export.weight_formats import WeightFormat, weight_format


def quantise(path: Path, weights: str, accuracy_level: int, vocab_size: int) -> None:
    """Rewrite the ONNX file: products with a constant matrix, and the embedding of the tokens.

    The weights must have been rounded before the graph was traced.
    """
    model = onnx.load(path)
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    with OnnxWriter(path) as writer:
        rewriting = _Rewriting(
            writer, model.graph, weight_format(writer, weights, accuracy_level), vocab_size
        )
        rewriting.write()
        writer.save(model.graph.input, model.graph.output, opset)


class _Rewriting:
    def __init__(
        self, writer: OnnxWriter, graph: GraphProto, fmt: WeightFormat, vocab_size: int
    ) -> None:
        self._writer = writer
        self._nodes = list(graph.node)
        self._format = fmt
        self._vocab_size = vocab_size
        self._weights = {w.name: w for w in graph.initializer}
        self._transposes = {
            node.output[0]: node
            for node in self._nodes
            if node.op_type == "Transpose" and node.input[0] in self._weights
        }
        self._table = ""
        """Name of the embedding, once it was met."""

    def write(self) -> None:
        """All nodes in their order, then the weights that are still asked for."""
        wanted: set[str] = set()
        for node in self._nodes:
            if node.output[0] in self._transposes or self._replace(node):
                continue
            for name in node.input:
                if (transpose := self._transposes.pop(name, None)) is not None:
                    self._writer.copy(transpose)
                    wanted.add(transpose.input[0])
            self._writer.copy(node)
            wanted.update(node.input)
        for name in sorted(wanted & self._weights.keys()):
            self._writer.weight(name, numpy_helper.to_array(self._weights[name]))

    def _replace(self, node: NodeProto) -> bool:
        """True where a quantised node was written in place of this one."""
        if node.op_type == "Gather":
            return self._embed(node)
        if node.op_type not in ("MatMul", "Gemm"):
            return False
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        source, matrix = self._matrix(node.input[1], transposed=bool(attributes.get("transB")))
        if matrix is None:
            return False
        bias = self._array(node.input[2]) if len(node.input) > 2 else None
        write = self._format.tied if source == self._table else self._format.linear
        write(node.input[0], Linear(matrix, bias), node.output[0])
        return True

    def _embed(self, node: NodeProto) -> bool:
        table = self._array(node.input[0])
        if table is None or table.ndim != 2 or len(table) != self._vocab_size or self._table:
            return False
        self._table = node.input[0]
        self._format.embed(node.input[1], table, node.output[0])
        return True

    def _matrix(self, name: str, *, transposed: bool) -> tuple[str, Floats | None]:
        """Name of the stored weight and the matrix (outputs, inputs); None where it is computed."""
        if name in self._transposes:
            name, transposed = self._transposes[name].input[0], not transposed
        matrix = self._array(name)
        if matrix is None or matrix.ndim != 2:
            return name, None
        return name, matrix if transposed else matrix.T

    def _array(self, name: str) -> Floats | None:
        weight = self._weights.get(name)
        return None if weight is None else np.asarray(numpy_helper.to_array(weight), np.float32)
