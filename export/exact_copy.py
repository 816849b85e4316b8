"""A copy of a graph that computes with the same weights but leaves activations alone.

Its logits must equal those of the rounded checkpoint but for the order of sums, so the parity check
can be as strict on it as on float32; what rounding activations adds is then measured by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper
from transformers import PreTrainedModel

from export import decoder_families, fused_graph

_FLOAT32 = 1
"""MatMulNBits' accuracy level: activations in float32."""
_NUM_PLAIN_INPUTS = 9
"""Of GroupQueryAttention, up to its rotary tables; scales of the cache come after them."""
_ABOUT_CACHE = re.compile("[kv]_quant_type|kv_cache_bit_width")


@contextmanager
def exact_copy(path: Path) -> Iterator[Path | None]:
    """The copy, beside the graph for as long as needed; None where nothing is rounded."""
    model = onnx.load(path, load_external_data=False)
    if not _rewrite(model.graph):
        yield None
        return
    copy = path.with_name("exact.onnx")
    onnx.save(model, copy)
    try:
        yield copy
    finally:
        copy.unlink()


@contextmanager
def float32_twin(model: PreTrainedModel, path: Path, num_positions: int) -> Iterator[Path]:
    """The fused graph of float16 once more in float32, from the same rounded model, beside it."""
    twin = path.with_name("exact.onnx")
    decoder = decoder_families.read_decoder(model, num_positions)
    try:
        fused_graph.write(decoder, twin, "fp32", accuracy_level=0)
        yield twin
    finally:
        for left in path.parent.glob(f"{twin.name}*"):
            left.unlink()


def _rewrite(graph: GraphProto) -> bool:
    """True where a node changed."""
    nodes: list[NodeProto] = []
    changed = False
    for node in graph.node:
        new = [node]
        if node.op_type == "DynamicQuantizeMatMul":
            new = _plain_product(node)
        elif node.op_type == "MatMulNBits":
            changed |= _set_level(node)
        elif node.op_type == "GroupQueryAttention":
            changed |= _widen_cache(node)
        changed |= len(new) > 1
        nodes += new
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.INT8:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return changed


def _set_level(node: NodeProto) -> bool:
    for attribute in node.attribute:
        if attribute.name == "accuracy_level" and attribute.i > _FLOAT32:
            attribute.i = _FLOAT32
            return True
    return False


def _widen_cache(node: NodeProto) -> bool:
    """A cache of float32 in place of one of 8 bits."""
    kept = [a for a in node.attribute if not _ABOUT_CACHE.fullmatch(a.name)]
    if len(kept) == len(node.attribute):
        return False
    del node.attribute[:], node.input[_NUM_PLAIN_INPUTS:]
    node.attribute.extend(kept)
    return True


def _plain_product(node: NodeProto) -> list[NodeProto]:
    """x · (codes × scales) + bias; onnxruntime would fuse a DequantizeLinear into other kernels."""
    x, codes, scales, *rest = node.input
    name, (result,) = node.name, node.output
    bias = rest[1] if len(rest) > 1 else ""
    wide, weight = f"{name}.wide", f"{name}.exact"
    product = f"{name}.exact_product" if bias else result
    nodes = [
        helper.make_node("Cast", [codes], [wide], wide, to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scales], [weight], weight),
        helper.make_node("MatMul", [x, weight], [product], product),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [product, bias], [result], result))
    return nodes
