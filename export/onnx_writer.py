"""Write an ONNX decoder node by node; its weights go straight into a file beside the graph.

onnxruntime maps that file: rows of an embedding that no text needs never fill memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET = 20
_IR_VERSION = 9
"""Old enough for every onnxruntime that the device may have."""
_ALIGNMENT_BYTES = 64
_INLINE_BYTES = 256
"""Axes, shapes and scalars stay in the graph, where onnxruntime's rewriting can see them."""


class OnnxWriter:
    """Collects nodes and streams weights; `save` writes the graph. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._data = path.with_name(f"{path.name}_data").open("wb")

    def __enter__(self) -> OnnxWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._data.close()

    def op(self, kind: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output, called after the node; an absent input is ''."""
        return self.ops(kind, *inputs, outputs=[name], domain=domain, **attributes)[0]

    def ops(
        self,
        kind: str,
        *inputs: str,
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[str]:
        """One node with several outputs, named after the first; an unused one is ''."""
        node = helper.make_node(
            kind, list(inputs), list(outputs), name=outputs[0], domain=domain, **attributes
        )
        self._nodes.append(node)
        return outputs

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """An initialiser; large ones are written to the data file at once."""
        if name in self._weights:
            raise ValueError(f"two weights are called {name}")
        array = np.ascontiguousarray(array)
        if array.nbytes <= _INLINE_BYTES:
            self._weights[name] = numpy_helper.from_array(array, name)
            return name
        self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT_BYTES))
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        place = {
            "location": Path(self._data.name).name,
            "offset": self._data.tell(),
            "length": array.nbytes,
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(array.data)
        self._weights[name] = tensor
        return name

    def view(self, name: str, of: str, shape: Sequence[int]) -> str:
        """The bytes of a large weight under another name and shape."""
        tensor = TensorProto()
        tensor.CopyFrom(self._weights[of])
        tensor.name = name
        tensor.dims[:] = shape
        self._weights[name] = tensor
        return name

    def copy(self, node: NodeProto) -> None:
        """A node of another graph as it is."""
        self._nodes.append(node)

    def save(
        self,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        opset: int = OPSET,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the graph; `metadata` is what a session can tell without reading the nodes."""
        graph = helper.make_graph(
            self._nodes, "decoder", list(inputs), list(outputs), list(self._weights.values())
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, producer_name="tandem", opset_imports=opsets, ir_version=_IR_VERSION
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.save(model, self._path)
