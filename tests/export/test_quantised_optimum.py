"""Products and embedding of a traced graph are replaced, tied weights stored once, and it computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export import optimum_graph, quantised_optimum
from export.exact_copy import exact_copy
from export.graph_signature import read_signature
from export.numpy_runner import NumpyRunner
from export.quantise import to_blocks
from export.quiet import quiet_libraries
from export.rounding import round_weights
from tests.tiny_models import NUM_TOKENS, tiny_model

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced GPT-2 (Gemm with bias, tied head) of rounded weights, quantised."""
    folder = tmp_path_factory.mktemp("gpt2")
    model = tiny_model("gpt2")
    round_weights(model, "int4")
    with quiet_libraries():
        optimum_graph.build(model, folder / "model.onnx")
    quantised_optimum.quantise(folder / "model.onnx", "int4", 4, NUM_TOKENS)
    with torch.inference_mode():
        np.save(folder / "logits.npy", model(input_ids=torch.tensor([IDS])).logits[0].numpy())
    return folder


def test_no_product_with_a_constant_matrix_is_left(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMulNBits"] == 2 * 4 + 1
    assert kinds["GatherBlockQuantized"] == 1
    assert kinds["Gemm"] == 0
    weights = {w.name for w in graph.initializer}
    assert not [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights]


def test_tied_weights_are_stored_once(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    (gather,) = (n for n in graph.node if n.op_type == "GatherBlockQuantized")
    (head,) = (n for n in graph.node if n.output[0] == "logits")
    assert head.input[2] == gather.input[2]
    places = {w.name: list(w.external_data) for w in graph.initializer}
    assert places[head.input[1]] == places[gather.input[0]]


def test_it_computes_what_the_rounded_checkpoint_computes(folder: Path) -> None:
    path = folder / "model.onnx"
    with exact_copy(path) as copy:
        assert copy is not None
        logits = NumpyRunner(copy, read_signature(path)).append(IDS)
    np.testing.assert_allclose(logits, np.load(folder / "logits.npy"), atol=1e-4)


def test_a_transpose_that_something_else_reads_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    matrix = np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32)
    matrix = to_blocks(matrix, 8).dequantised()
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
        helper.make_node("Relu", ["wt"], ["z"]),
    ]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 96]), ("y", [2, 32]), ("z", [96, 32]))
    }
    graph = helper.make_graph(
        nodes, "g", [values["x"]], [values["y"], values["z"]],
        [numpy_helper.from_array(matrix, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    quantised_optimum.quantise(path, "int8", 0, 1000)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds == ["MatMulNBits", "Transpose", "Relu"]
