"""A manifest that does not describe its graph is refused before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from device_runtime.bundle import MANIFEST_FILE, Bundle, load_manifest
from device_runtime.cached_graph import open_graph
from device_runtime.graph_check import check_signature
from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.runtime_versions import FIRST_WITH_INT8_CACHE, version_of
from device_runtime.settings import RuntimeSettings
from tests.tiny_bundle import make_bundle

NAMES = {"position_ids_name": "position_ids", "logits_name": "scores"}


@pytest.mark.parametrize(
    ("graph", "changes", "said"),
    [
        ("fused", NAMES, "manifest and graph disagree about position_ids, scores"),
        ("fused", {"num_layers": 1}, r"disagree about past_key_values\.1\.key"),
        ("fused", {"num_kv_heads": 4}, "past_key_values.0.key as tensor.float. 1 × 2 × . × 16"),
        ("optimum", {"head_size": 32}, "manifest as tensor.float. 1 × 2 × . × 32; export"),
        ("optimum", {"cache_dtype": "float16"}, "manifest as tensor.float16. 1 × 2"),
        pytest.param(
            "fused", {"cache_dtype": "int8"}, "manifest as tensor.int8. 1 × 2",
            marks=pytest.mark.skipif(
                version_of(onnxruntime.__version__) < FIRST_WITH_INT8_CACHE,
                reason="this onnxruntime reads no cache of 8 bits, which is told first",
            ),
        ),
        ("fused", {"logits_dtype": "float16"}, "graph has logits as tensor.float. 1 × . × 320"),
        ("fused", {"vocab_size": 321}, "manifest as tensor.float. 1 × . × 321; export"),
        (
            "fused",
            {"last_position_name": "num_positions", "num_positions_name": "last_position"},
            "last_position as tensor.int32. 1, the manifest as tensor.int32. scalar; export",
        ),
    ],
)  # fmt: skip
def test_a_manifest_of_another_graph_is_refused(
    graph: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = make_bundle(tmp_path, graph) / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BundleError, match=said) as refused:
        open_graph(Bundle.open(tmp_path), RuntimeSettings(num_threads=1), 20)
    assert re.search("; export the model again$", str(refused.value))


def test_sizes_that_a_graph_leaves_open_are_no_difference(tmp_path: Path) -> None:
    """As exporters name them, or where shapes are unknown."""
    manifest = load_manifest(make_bundle(tmp_path))

    def tensor(name: str, kind: str, *shape: int | str | None) -> SimpleNamespace:
        return SimpleNamespace(name=name, type=f"tensor({kind})", shape=list(shape))

    def cache(when: str) -> list[SimpleNamespace]:
        return [
            tensor(f"{when}.{layer}.{part}", "float", "batch", 2, None, "head")
            for layer in range(manifest.num_layers)
            for part in ("key", "value")
        ]

    lengths = [tensor("last_position", "int32", "batch"), tensor("num_positions", "int32")]
    inputs = [tensor("input_ids", "int64", "batch", "length"), *lengths, *cache("past_key_values")]
    outputs = [tensor("logits", "float"), *cache("present"), tensor("extra", "bool", 7)]
    session: Any = SimpleNamespace(get_inputs=lambda: inputs, get_outputs=lambda: outputs)
    check_signature(session, manifest)
