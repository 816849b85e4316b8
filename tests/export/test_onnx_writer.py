"""Weights in the file beside the graph, small ones inside it, one stretch of bytes seen twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.onnx_writer import OnnxWriter

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])


def test_large_weights_lie_beside_the_graph_and_small_ones_inside(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    matrix = np.arange(128, dtype=np.float32).reshape(16, 8).T  # not contiguous
    with OnnxWriter(path) as writer:
        product = writer.op("MatMul", "x", writer.weight("matrix", matrix), name="product")
        writer.op("Add", product, writer.weight("one", np.ones(16, np.float32)), name="y")
        writer.save([X], [Y])
    weights = {w.name: w for w in onnx.load(path, load_external_data=False).graph.initializer}
    assert weights["matrix"].data_location == TensorProto.EXTERNAL
    assert weights["one"].data_location == TensorProto.DEFAULT
    assert path.with_name("model.onnx_data").stat().st_size == matrix.nbytes
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    (y,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ matrix + 1, rtol=1e-5)


def test_large_weights_begin_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(301, dtype=np.int8),
        "b": np.arange(99, dtype=np.float32),
    }
    with OnnxWriter(path) as writer:
        for name, array in arrays.items():
            writer.weight(name, array)
        writer.save([], [])
    for weight in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: int(entry.value) for entry in weight.external_data[1:]}
        assert place["offset"] % 64 == 0
        assert place["length"] == arrays[weight.name].nbytes
    for weight in onnx.load(path).graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(weight), arrays[weight.name])


def test_a_view_is_the_same_bytes_in_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    array = np.arange(400, dtype=np.int64).reshape(4, 100)
    with OnnxWriter(path) as writer:
        writer.view("tall", writer.weight("wide", array), (100, 4))
        writer.save([], [])
    assert path.with_name("model.onnx_data").stat().st_size == array.nbytes
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(weights["tall"], array.reshape(100, 4))


def test_a_name_stands_for_one_weight(tmp_path: Path) -> None:
    with OnnxWriter(tmp_path / "model.onnx") as writer:
        writer.weight("twice", np.ones(2, np.float32))
        with pytest.raises(ValueError, match="two weights are called twice"):
            writer.weight("twice", np.ones(2, np.float32))
