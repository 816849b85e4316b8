"""Reading a decoder's own inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import ExportError
from export.graph_signature import GraphSignature, read_signature

Value = tuple[str, int, list[int | str]]
FLOAT, HALF, IDS = int(TensorProto.FLOAT), int(TensorProto.FLOAT16), int(TensorProto.INT64)


def cache(stem: str, axis: str) -> list[Value]:
    return [
        (f"{stem}.{layer}.{kind}", FLOAT, ["b", 2, axis, 16])
        for layer in range(3)
        for kind in ("key", "value")
    ]


INPUTS: list[Value] = [
    ("input_ids", IDS, ["b", "n"]),
    ("attention_mask", IDS, ["b", "m"]),
    *cache("past", "p"),
]
OUTPUTS: list[Value] = [("logits", FLOAT, ["b", "n", 384]), *cache("now", "m")]


def signature(folder: Path, inputs: list[Value], outputs: list[Value]) -> GraphSignature:
    ins, outs = ([helper.make_tensor_value_info(*v) for v in vs] for vs in (inputs, outputs))
    graph = helper.make_graph([], "decoder", ins, outs)
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    return read_signature(folder / "model.onnx")


def test_names_sizes_and_types_are_found_in_the_graph(tmp_path: Path) -> None:
    assert signature(tmp_path, INPUTS, OUTPUTS) == GraphSignature(
        num_layers=3,
        num_kv_heads=2,
        head_size=16,
        vocab_size=384,
        cache_dtype="float32",
        logits_dtype="float32",
        input_ids_name="input_ids",
        attention_mask_name="attention_mask",
        position_ids_name=None,
        last_position_name=None,
        num_positions_name=None,
        logits_name="logits",
        past_key_pattern="past.%d.key",
        past_value_pattern="past.%d.value",
        present_key_pattern="now.%d.key",
        present_value_pattern="now.%d.value",
    )


def replaced(values: list[Value], name: str, *new: Value) -> list[Value]:
    kept = [value for value in values if value[0] != name]
    return [*kept, *new]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([*INPUTS, ("use_cache_branch", FLOAT, [1])], OUTPUTS, "use_cache_branch"),
        (replaced(INPUTS, "input_ids"), OUTPUTS, "must have an input input_ids"),
        (INPUTS, replaced(OUTPUTS, "logits"), "an output logits"),
        ([*INPUTS, ("state.0.conv", FLOAT, ["b", 2, 4, 16])], OUTPUTS, "one key and one value"),
        (INPUTS[:2], OUTPUTS, "inputs must hold one key"),
        (INPUTS, replaced(OUTPUTS, "now.2.key"), "one shape in all layers"),
        (
            replaced(INPUTS, "past.1.value", ("past.1.value", FLOAT, ["b", 2, "p", 8])),
            OUTPUTS,
            "one shape in all layers",
        ),
        (
            replaced(INPUTS, "past.1.value", ("past.1.value", FLOAT, ["b", "h", "p", 16])),
            OUTPUTS,
            "axis 1 of the graph's past.1.value",
        ),
        (
            INPUTS,
            replaced(OUTPUTS, "logits", ("logits", IDS, ["b", "n", 384])),
            "none of float32, float16, int8",
        ),
    ],
)
def test_a_graph_the_runtime_cannot_drive_is_refused(
    tmp_path: Path, inputs: list[Value], outputs: list[Value], expected: str
) -> None:
    with pytest.raises(ExportError, match=expected):
        signature(tmp_path, inputs, outputs)


def test_a_float16_cache_is_told_apart(tmp_path: Path) -> None:
    inputs = [(name, HALF if dtype == FLOAT else dtype, dims) for name, dtype, dims in INPUTS]
    found = signature(tmp_path, inputs, OUTPUTS)
    assert (found.cache_dtype, found.logits_dtype) == ("float16", "float32")
