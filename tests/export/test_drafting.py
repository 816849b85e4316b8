"""The device's own drafter writes from a bundle what transformers writes from the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from device_runtime.bundle import Bundle, load_manifest
from device_runtime.protocol.runtime_versions import WINDOW_KEY
from export import fused_graph, optimum_graph
from export.decoder_families import FAMILIES, read_decoder
from tests.export.greedy_text import PROMPT, drafted, generated
from tests.tiny_models import ARCHITECTURES, save_checkpoint, tiny_model

Export = Callable[..., int]

WINDOWED = ("gemma2", "gemma3_text", "mistral")
_SCALED = {"factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3.2": (
        "llama",
        {
            "rope_scaling": {
                **_SCALED, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0
            },
            "tie_word_embeddings": True,
        },
    ),
    "llama, yarn": ("llama", {"rope_scaling": {**_SCALED, "rope_type": "yarn"}}),
    "llama, all biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "llama, one kv head": ("llama", {"num_key_value_heads": 1}),
    "qwen2, half windowed": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}
    ),
    "phi3, long rope": (
        "phi3",
        {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + i / 10 for i in range(8)],
                "long_factor": [2.0] * 8,
            },
            "original_max_position_embeddings": 128,
        },
    ),
    "phi 4 mini": ("phi3", {"partial_rotary_factor": 0.5, "head_dim": 32, "hidden_size": 128}),
    "gemma 3, scaled": (
        "gemma3_text",
        {
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "num_hidden_layers": 6,
            "sliding_window_pattern": 3,
        },
    ),
    "mistral without window": ("mistral", {"sliding_window": None, "head_dim": 32}),
}  # fmt: skip
"""What else comes in the wild, each with a fused graph."""


def sees_windows() -> bool:
    """onnxruntime before 1.24 lets a window see one position more."""
    major, minor = map(int, onnxruntime.__version__.split(".")[:2])
    return (major, minor) >= (1, 24)


def check(export: Export, checkpoint: Path, out: Path, *options: str, graph: str = "fused") -> None:
    """Export in float32 and compare; text and prompt go beyond windows of 32."""
    assert export(checkpoint, "--out", out, "--weights", "fp32", "--json", *options) == 0
    assert load_manifest(out).graph == graph
    assert drafted(out, PROMPT, 48) == generated(checkpoint, PROMPT, 48)


def test_the_device_writes_what_transformers_writes_from_a_llama(
    llama: Path, llama_bundle: Path
) -> None:
    assert drafted(llama_bundle, PROMPT, 64) == generated(llama, PROMPT, 64)


def test_the_device_writes_what_transformers_writes_from_a_padded_tied_float16_gpt2(
    gpt2: Path, gpt2_bundle: Path
) -> None:
    assert drafted(gpt2_bundle, PROMPT, 64) == generated(gpt2, PROMPT, 64)


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - {"llama"}))
def test_each_family_has_a_fused_graph(model_type: str, export: Export, tmp_path: Path) -> None:
    if model_type in WINDOWED and not sees_windows():
        pytest.skip("this onnxruntime's windows are one position wider")
    checkpoint = save_checkpoint(tiny_model(model_type), tmp_path / "checkpoint")
    check(export, checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("model_type", "config", "expected"),
    [
        ("llama", {}, {}),
        ("mistral", {"sliding_window": 24}, {WINDOW_KEY: "24"}),
        ("gemma3_text", {"sliding_window": 40}, {WINDOW_KEY: "40"}),
    ],
)
def test_the_runtime_learns_of_windows_from_the_graphs_metadata(
    model_type: str, config: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    decoder = read_decoder(tiny_model(model_type, **config), 64)
    fused_graph.write(decoder, path, "fp32", accuracy_level=0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == expected


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_a_fused_graph(variant: str, export: Export, tmp_path: Path) -> None:
    model_type, config = VARIANTS[variant]
    if "sliding" in str(config) and not sees_windows():
        pytest.skip("this onnxruntime's windows are one position wider")
    checkpoint = save_checkpoint(tiny_model(model_type, **config), tmp_path / "checkpoint")
    check(export, checkpoint, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_each_architecture_has_optimums_graph(
    model_type: str, export: Export, tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(tiny_model(model_type), tmp_path / "checkpoint")
    check(export, checkpoint, tmp_path / "out", "--graph", "optimum", graph="optimum")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int8-dynamic", "int4"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_each_architecture_is_quantised(
    model_type: str,
    weights: str,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The export itself compares: strictly what holds the weights, loosely what rounds the rest."""
    if model_type in WINDOWED and not sees_windows():
        pytest.skip("this onnxruntime's windows are one position wider")
    checkpoint = save_checkpoint(tiny_model(model_type), tmp_path / "checkpoint")
    assert export(checkpoint, "--out", tmp_path / "out", "--weights", weights, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["graph"] == ("fused" if model_type in FAMILIES else "optimum")
    assert report["parity"]["num_greedy_equal"] == 100
    assert 0 < report["parity"]["activations"]["relative_rms_error"] < 0.1
    assert len(drafted(tmp_path / "out", PROMPT, 8)) == 8


def test_partly_rotated_heads_that_do_not_fit_go_by_optimum(export: Export, tmp_path: Path) -> None:
    model = tiny_model("phi3", partial_rotary_factor=0.5)
    check(export, save_checkpoint(model, tmp_path / "phi3"), tmp_path / "out", graph="optimum")


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    gpt2: Path,
    gpt2_bundle: Path,
    export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")  # optimum: as if above 2 GB
    monkeypatch.setattr(optimum_graph, "MAX_INLINE_BYTES", 1000)
    assert export(gpt2, "--out", tmp_path / "out", "--weights", "fp32", "--json") == 0
    names = Bundle.open(tmp_path / "out").manifest.files.keys()
    assert names == {"model.onnx", "model.onnx_data", "tokenizer.json"}
    assert drafted(tmp_path / "out", PROMPT, 8) == drafted(gpt2_bundle, PROMPT, 8)
