"""The copy that rounds no activations gives the rounded checkpoint's logits; the graph does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export import decoder_families, fused_graph
from export.exact_copy import exact_copy
from export.graph_signature import read_signature
from export.parity import NumpyRunner
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
