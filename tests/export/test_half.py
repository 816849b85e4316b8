"""Half precision for a GPU: from `tandem export` to the provider that would run it.

No GPU was there: what CUDA is asked for is looked at, and the graph itself runs on the CPU provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from device_runtime.bundle import Bundle, load_manifest
from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from device_runtime.protocol.errors import ConfigError
from device_runtime.providers import choose_providers
from export.decoder_families import FAMILIES
from export.parity import HALF_RTOL
from hw_profiles.schema import CPU, CUDA, TENSORRT
from tests.export.greedy_text import PROMPT, generated
from tests.tiny_models import save_checkpoint, tiny_model

Export = Callable[..., int]

JETSON = "jetson-orin-nano"
ONE_THREAD = RuntimeSettings(num_threads=1, prefill_chunk=8)
CUDA_OPTIONS = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}


@pytest.fixture(scope="module")
def half(llama: Path, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a Jetson's profile makes of a Llama."""
    out = tmp_path_factory.mktemp("half") / "llama"
    assert export(llama, "--out", out, "--device", JETSON, "--json") == 0
    return out


def test_a_jetsons_bundle_goes_to_cuda_when_that_is_offered(half: Path) -> None:
    manifest = Bundle.open(half).manifest
    assert (manifest.graph, manifest.weights) == ("fused", "fp16")
    assert (manifest.cache_dtype, manifest.logits_dtype) == ("float16", "float32")
    settings = RuntimeSettings.for_profile(JETSON)
    chosen, passed_over = choose_providers([TENSORRT, CUDA, CPU], manifest, settings, 256)
    assert chosen == [(CUDA, CUDA_OPTIONS), (CPU, {})]
    assert passed_over == []


def test_without_cuda_the_jetson_drafts_on_its_cpu_and_says_why(
    half: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RuntimeSettings.for_profile(JETSON)
    assert choose_providers([CPU], load_manifest(half), settings, 256)[0] == [(CPU, {})]
    OnnxDrafter.open(half, settings).append(np.array(PROMPT))
    absent, slow = caplog.messages
    assert absent.startswith(f"{CUDA} is passed over: this onnxruntime has")
    assert slow.startswith("A bundle of float16 runs on the CPU")


def test_nothing_but_ids_mask_and_logits_is_float32_or_wider(half: Path) -> None:
    graph = onnx.load(half / "model.onnx", load_external_data=False).graph
    floats = {w.name: w.data_type for w in graph.initializer if w.data_type != TensorProto.INT64}
    assert {kind for name, kind in floats.items() if name != "one"} == {TensorProto.FLOAT16}
    cache = [v for v in (*graph.input, *graph.output) if "past" in v.name or "present" in v.name]
    assert {v.type.tensor_type.elem_type for v in cache} == {TensorProto.FLOAT16}
    (logits,) = (v for v in graph.output if v.name == "logits")
    assert logits.type.tensor_type.elem_type == TensorProto.FLOAT
    assert graph.node[-1].op_type == "Cast" and graph.node[-1].output == ["logits"]


def test_its_rows_are_those_of_float32_within_the_tolerance(half: Path, llama_bundle: Path) -> None:
    """HALF_RTOL is 0.03 of the rows' root mean square; half precision takes a tenth of that here."""
    drafters = [OnnxDrafter.open(folder, ONE_THREAD) for folder in (half, llama_bundle)]
    error = size = 0.0
    for block in (PROMPT, *([id_] for id_ in range(5, 60)), [7, 8]):
        row, exact = (drafter.append(np.array(block)).astype(np.float64) for drafter in drafters)
        error += float(np.square(row - exact).sum())
        size += float(np.square(exact).sum())
    assert (error / size) ** 0.5 < HALF_RTOL / 3


def test_a_rollback_in_half_precision_is_as_if_nothing_had_been_drafted(half: Path) -> None:
    drafter, fresh = (OnnxDrafter.open(half, ONE_THREAD) for _ in range(2))
    drafter.append(np.array(PROMPT))
    for wrong in (5, 6, 7):
        drafter.append(np.array([wrong]))
    drafter.truncate(len(PROMPT) + 1)
    fresh.append(np.array(PROMPT))
    fresh.append(np.array([5]))
    block = np.array([9, 10])
    assert np.array_equal(drafter.append(block), fresh.append(block))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_family_is_written_in_half_precision(
    model_type: str, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The export's own comparison passes, and the bundle drafts."""
    checkpoint = save_checkpoint(tiny_model(model_type), tmp_path / "checkpoint")
    out = tmp_path / "out"
    assert export(checkpoint, "--out", out, "--weights", "fp16", "--json") == 0
    activations = json.loads(capsys.readouterr().out)["parity"]["activations"]
    assert activations["to"] == "float16"
    assert 0 < activations["relative_rms_error"] < HALF_RTOL / 3
    text = generated(checkpoint, PROMPT, 24)
    drafter = OnnxDrafter.open(out, ONE_THREAD)
    blocks = [PROMPT, *([id_] for id_ in text[:-1])]
    choices = [int(drafter.append(np.array(block)).argmax()) for block in blocks]
    assert sum(a == b for a, b in zip(choices, text, strict=True)) >= 22  # near ties may turn


def test_a_model_without_a_fused_graph_goes_to_the_gpu_in_float32(
    gpt2: Path, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(gpt2, "--out", out, "--device", JETSON, "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("fp32 in place of fp16")
    manifest = load_manifest(out)
    assert (manifest.graph, manifest.weights, manifest.cache_dtype) == (
        "optimum",
        "fp32",
        "float32",
    )
    wish = RuntimeSettings(providers=(TENSORRT, CUDA, CPU))
    chosen, _ = choose_providers([TENSORRT, CUDA, CPU], manifest, wish, 256)
    assert [name for name, _ in chosen] == [TENSORRT, CUDA, CPU]


def test_half_precision_is_refused_where_optimum_writes_the_graph(
    gpt2: Path, export: Export, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--weights fp16 needs a fused graph"):
        export(gpt2, "--out", tmp_path / "out", "--weights", "fp16")
