"""Tied weights are stored once, inline or in a file beside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import optimum_graph

NUM_TOKENS, WIDTH = 300, 16


def save(path: Path, table: np.ndarray, head: np.ndarray, *, external: bool = False) -> None:
    """Embedding and head of a language model, as a tracer leaves them."""
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(w, np.float32), name)
        for w, name in ((table, "table"), (head, "head"))
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "head"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", NUM_TOKENS])
    graph = helper.make_graph(nodes, "g", [ids], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}_data")


def logits(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": np.arange(9)})[0])


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUM_TOKENS, WIDTH)).astype(np.float32)


def test_a_tied_head_is_stored_once_and_computes_the_same(
    tmp_path: Path, table: np.ndarray
) -> None:
    path = tmp_path / "model.onnx"
    save(path, table, table.T)
    before, size = logits(path), path.stat().st_size
    assert optimum_graph.share_tied_weights(path)
    assert size - path.stat().st_size > 0.95 * table.nbytes
    assert np.array_equal(logits(path), before)
    onnx.checker.check_model(path, full_check=True)


def test_a_head_of_its_own_is_left_alone(tmp_path: Path, table: np.ndarray) -> None:
    path = tmp_path / "model.onnx"
    head = table.T.copy()
    head[3, 7] += 1e-6
    save(path, table, head)
    before = path.read_bytes()
    assert not optimum_graph.share_tied_weights(path)
    assert path.read_bytes() == before


def test_large_weights_stay_in_one_file_beside_the_graph(
    tmp_path: Path, table: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(optimum_graph, "MAX_INLINE_BYTES", 1000)
    save(path, table, table.T, external=True)
    before = logits(path)
    assert optimum_graph.share_tied_weights(path)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.onnx_data"}
    assert (tmp_path / "model.onnx_data").stat().st_size == table.nbytes
    assert np.array_equal(logits(path), before)
