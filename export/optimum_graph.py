"""The graph that optimum traces: plain attention, a cache that grows by concatenation, float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from transformers import PreTrainedModel

from export.architecture import TASK

MAX_INLINE_BYTES = 1_900_000_000
"""A protobuf ends at 2 GiB; larger weights lie in a file of their own beside the graph."""


def build(model: PreTrainedModel, path: Path) -> None:
    """Trace `model` (float32, CPU) into the ONNX file `path`; tied weights are stored once."""
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type=model.config.model_type, task=TASK, library_name="transformers"
    )
    model.config.use_cache = True
    config = constructor(model.config, use_past=True, use_past_in_inputs=True)
    export(model, config, path, opset=config.DEFAULT_ONNX_OPSET)
    if model.config.tie_word_embeddings:
        share_tied_weights(path)


def share_tied_weights(path: Path) -> bool:
    """Store a head that equals the transposed embedding once; True where one was found.

    Tracing folds the transpose into a second copy. onnxruntime folds it again at load, so speed and
    memory stay the same (measured: 49,152 × 576, one thread); the file is smaller by the copy.
    """
    model = onnx.load(path)
    weights = {w.name: w for w in model.graph.initializer}
    tables = {n.input[0] for n in model.graph.node if n.op_type == "Gather"} & weights.keys()
    for index, node in enumerate(model.graph.node):
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        head = weights[node.input[1]]
        for table in tables:
            if _is_transpose(weights[table], head):
                name = f"{table}.transposed"
                node.input[1] = name
                transpose = onnx.helper.make_node("Transpose", [table], [name], name, perm=[1, 0])
                model.graph.node.insert(index, transpose)
                model.graph.initializer.remove(head)
                _save(model, path)
                return True
    return False


def _is_transpose(table: onnx.TensorProto, head: onnx.TensorProto) -> bool:
    if list(table.dims) != list(head.dims)[::-1]:
        return False
    return np.array_equal(numpy_helper.to_array(table).T, numpy_helper.to_array(head))


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Write graph and weights anew; the old files are gone first, as onnx appends to them."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    large = model.ByteSize() > MAX_INLINE_BYTES
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}_data")
