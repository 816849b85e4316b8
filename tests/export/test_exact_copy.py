"""The copy that rounds no activations gives the rounded checkpoint's logits; the graph does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export import decoder_families, fused_graph
from export.exact_copy import exact_copy, float32_twin
from export.graph_signature import read_signature
from export.numpy_runner import NumpyRunner
from export.rounding import round_weights
from tests.tiny_models import tiny_model

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("weights", ["int4", "int8", "int8-dynamic"])
def test_the_copy_computes_with_the_weights_alone(weights: str, tmp_path: Path) -> None:
    model = tiny_model("qwen2")  # has biases
    round_weights(model, weights)
    path = tmp_path / "model.onnx"
    fused_graph.write(decoder_families.read_decoder(model, 64), path, weights, accuracy_level=4)
    signature = read_signature(path)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    with exact_copy(path) as copy:
        assert copy is not None
        exact = NumpyRunner(copy, signature).append(IDS)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    assert np.abs(NumpyRunner(path, signature).append(IDS) - expected).max() > 1e-3
    assert not copy.exists()


def test_there_is_none_where_nothing_is_rounded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    decoder = decoder_families.read_decoder(tiny_model("llama"), 64)
    for weights, level in (("fp32", 4), ("int4", 0), ("int4", 1)):
        fused_graph.write(decoder, path, weights, level)
        with exact_copy(path) as copy:
            assert copy is None


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama", "qwen2"])
def test_a_graph_of_halves_holds_what_its_twin_holds_rounded_once(
    model_type: str, tmp_path: Path
) -> None:
    """Gemma has two rotary tables, scaled embeddings and norms of 1 + weight; Qwen2 has biases."""
    model = tiny_model(model_type)
    round_weights(model, "fp16")
    path = tmp_path / "model.onnx"
    fused_graph.write(decoder_families.read_decoder(model, 64), path, "fp16", accuracy_level=4)
    with float32_twin(model, path, 64) as twin:
        wide, half = (
            {
                w.name.replace("logits.half.", "logits."): numpy_helper.to_array(w)
                for w in onnx.load(file).graph.initializer
            }
            for file in (twin, path)
        )
        nodes, half_nodes = (onnx.load(file).graph.node for file in (twin, path))
    assert wide.keys() == half.keys()
    for name, values in wide.items():
        expected = values.astype(np.float16) if values.dtype == np.float32 else values
        np.testing.assert_array_equal(half[name], expected, err_msg=name)
        if values.ndim == 2 and "rotary" not in name:
            np.testing.assert_array_equal(half[name].astype(np.float32), values, err_msg=name)
    casts = [n for n in half_nodes if n.op_type == "Cast" and n.output == ["logits"]]
    assert len(half_nodes) == len(nodes) + len(casts) == len(nodes) + 1
    assert [path.name for path in tmp_path.glob("exact*")] == []
