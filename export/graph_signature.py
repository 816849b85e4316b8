"""What an ONNX decoder's own inputs and outputs say: names, layers, shapes, types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto

from export.errors import ExportError

_DTYPES = {
    int(TensorProto.FLOAT): "float32",
    int(TensorProto.FLOAT16): "float16",
    int(TensorProto.INT8): "int8",
}
_OPTIONAL = ("attention_mask", "position_ids", "last_position", "num_positions")
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """Names and shapes of a decoder; `%d` in a pattern stands for the layer."""

    num_layers: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    cache_dtype: str
    logits_dtype: str
    input_ids_name: str
    attention_mask_name: str | None
    position_ids_name: str | None
    last_position_name: str | None
    num_positions_name: str | None
    logits_name: str
    past_key_pattern: str
    past_value_pattern: str
    present_key_pattern: str
    present_value_pattern: str


def read_signature(path: Path) -> GraphSignature:
    """Signature of the ONNX file; ExportError where the runtime could not drive such a graph."""
    graph = onnx.load(path, load_external_data=False).graph
    inputs, past = _split(graph.input)
    outputs, present = _split(graph.output)
    past_key, past_value = _key_and_value(past, "inputs")
    present_key, present_value = _key_and_value(present, "outputs")
    if unknown := inputs.keys() - {"input_ids", *_OPTIONAL}:
        raise ExportError(f"the graph has inputs the runtime does not know: {sorted(unknown)}")
    if "input_ids" not in inputs or "logits" not in outputs:
        raise ExportError("the graph must have an input input_ids and an output logits")
    layers = [*past[past_key].values(), *past[past_value].values()]
    shapes = {(_dim(v, 1), _dim(v, 3), _dtype(v)) for v in layers}
    if len(shapes) != 1 or len({len(group) for group in (*past.values(), *present.values())}) != 1:
        raise ExportError(f"the cache must have one shape in all layers, not {sorted(shapes)}")
    ((num_kv_heads, head_size, cache_dtype),) = shapes
    return GraphSignature(
        num_layers=len(past[past_key]),
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        vocab_size=_dim(outputs["logits"], 2),
        cache_dtype=cache_dtype,
        logits_dtype=_dtype(outputs["logits"]),
        input_ids_name="input_ids",
        logits_name="logits",
        past_key_pattern=past_key,
        past_value_pattern=past_value,
        present_key_pattern=present_key,
        present_value_pattern=present_value,
        **{f"{name}_name": name if name in inputs else None for name in _OPTIONAL},
    )


_Values = dict[str, ValueInfoProto]


def _split(values: list[ValueInfoProto]) -> tuple[_Values, dict[str, _Values]]:
    """Plain values by name, and those of layers by pattern, then by name."""
    plain: _Values = {}
    layers: dict[str, _Values] = {}
    for value in values:
        pattern = _LAYER.sub("%d", value.name)
        if pattern == value.name:
            plain[value.name] = value
        else:
            layers.setdefault(pattern, {})[value.name] = value
    return plain, layers


def _key_and_value(patterns: dict[str, _Values], where: str) -> tuple[str, str]:
    keys = [pattern for pattern in patterns if pattern.endswith("key")]
    values = [pattern for pattern in patterns if pattern.endswith("value")]
    if len(keys) != 1 or len(values) != 1 or len(patterns) != 2:
        raise ExportError(f"the graph's {where} must hold one key and one value a layer")
    return keys[0], values[0]


def _dim(value: ValueInfoProto, axis: int) -> int:
    size = value.type.tensor_type.shape.dim[axis].dim_value
    if size < 1:
        raise ExportError(f"axis {axis} of the graph's {value.name} has no fixed size")
    return int(size)


def _dtype(value: ValueInfoProto) -> str:
    element = value.type.tensor_type.elem_type
    if element not in _DTYPES:
        raise ExportError(f"the graph's {value.name} is none of {', '.join(_DTYPES.values())}")
    return _DTYPES[element]
