"""Every kind of weights computes W x + b and rows of the embedding, and stores tied weights once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from export.choose import WEIGHTS
from export.decoder import Linear
from export.onnx_writer import OnnxWriter
from export.quantise import to_blocks, to_columns
from export.weight_formats import PLAIN, weight_format

KINDS = [kind for kind in WEIGHTS if kind != "auto"]
NUM_TOKENS, WIDTH = 300, 64
IDS = np.array([[0, 7, 299]])
ERROR = {"fp32": 1e-4, "fp16": 0.02, "int8": 1e-4, "int8-dynamic": 1.0, "int4": 1e-4}
"""Of a logit of size 8: fp16 rounds them, int8-dynamic the activations to 1/255 of their range."""
BYTES_PER_WEIGHT = {
    "fp32": 4,
    "fp16": 2,
    "int8": 1 + 4 / 64,
    "int8-dynamic": 1 + 4 / 64,
    "int4": 0.5 + 4 / 64,
}


def rounded(matrix: np.ndarray, kind: str) -> np.ndarray:
    if kind in ("fp32", "fp16"):
        return matrix.astype(PLAIN[kind]).astype(np.float32)
    if kind == "int8-dynamic":
        codes, scales = to_columns(matrix)
        return np.asarray(codes * scales[:, None])
    return to_blocks(matrix, 4 if kind == "int4" else 8).dequantised()


@pytest.mark.parametrize("width", [WIDTH, 40])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_embedding_and_head(kind: str, tied: bool, width: int, tmp_path: Path) -> None:
    """Rows of 40 do not divide into blocks: their last one is filled up."""
    table = np.random.default_rng(0).standard_normal((NUM_TOKENS, width)).astype(np.float32)
    path = tmp_path / "model.onnx"
    bias = np.linspace(-1, 1, NUM_TOKENS, dtype=np.float32)
    with OnnxWriter(path) as writer:
        fmt = weight_format(writer, kind, accuracy_level=0)
        rows = fmt.embed("ids", table, "rows")
        (fmt.tied if tied else fmt.linear)(rows, Linear(table, bias), "logits")
        element = helper.np_dtype_to_tensor_dtype(fmt.dtype)
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])
        outputs = [
            helper.make_tensor_value_info(name, element, [1, "n", size])
            for name, size in (("rows", width), ("logits", NUM_TOKENS))
        ]
        writer.save([ids], outputs)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    got_rows, logits = session.run(None, {"ids": IDS})
    weights = rounded(table, kind)
    assert got_rows.dtype == logits.dtype == fmt.dtype
    np.testing.assert_allclose(got_rows[0], weights[IDS[0]], rtol=1e-6)
    expected = weights[IDS[0]] @ weights.T + bias
    np.testing.assert_allclose(logits[0], expected, atol=ERROR[kind])
    if width != WIDTH:
        return
    stored = path.with_name("model.onnx_data").stat().st_size - bias.size * fmt.dtype.itemsize
    copies = 1 if tied else 2
    assert stored == pytest.approx(copies * table.size * BYTES_PER_WEIGHT[kind], rel=0.01)
