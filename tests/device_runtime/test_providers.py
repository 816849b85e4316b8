"""What onnxruntime is asked for on a machine with a GPU; no GPU is needed, and none was used."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from device_runtime import cached_graph, ort_session
from device_runtime.bundle import Bundle
from device_runtime.cached_graph import open_graph
from device_runtime.protocol.manifest import FILE_NAME, Manifest
from device_runtime.providers import CPU, CUDA, TENSORRT, choose_providers
from device_runtime.settings import RuntimeSettings
from tests.tiny_bundle import make_bundle

ALL = [TENSORRT, CUDA, CPU]
MAX_LEN = 32
WISH = RuntimeSettings(num_threads=1, prefill_chunk=8, providers=(TENSORRT, CUDA, CPU))


def manifest(folder: Path, graph: str, **changes: object) -> Manifest:
    """A bundle's manifest with other values, also on disk."""
    path = make_bundle(folder, graph) / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return Manifest.load(folder)


def names(available: list[str], of: Manifest, settings: RuntimeSettings = WISH) -> list[str]:
    return [name for name, _ in choose_providers(available, of, settings, MAX_LEN)]


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_a_fused_graph_goes_to_cuda_in_half_precision_only(tmp_path: Path) -> None:
    half = manifest(tmp_path / "half", "fused", cache_dtype="float16")
    assert names(ALL, half) == [CUDA, CPU]
    assert names(ALL, manifest(tmp_path / "single", "fused")) == [CPU]
    assert names([CPU], half) == [CPU]
    assert names(ALL, half, RuntimeSettings(providers=(CPU,))) == [CPU]


def test_a_plain_graph_goes_to_tensorrt_only_if_that_is_wished(tmp_path: Path) -> None:
    plain = manifest(tmp_path, "optimum")
    assert names(ALL, plain) == [TENSORRT, CUDA, CPU]
    assert names(ALL, plain, RuntimeSettings()) == [CUDA, CPU]
    assert names([CUDA, CPU], plain) == [CUDA, CPU]


def test_cuda_takes_no_more_memory_than_it_needs(tmp_path: Path) -> None:
    options = dict(choose_providers(ALL, manifest(tmp_path, "optimum"), WISH, MAX_LEN))
    assert options[CUDA] == {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}


def test_tensorrt_builds_one_half_precision_engine_for_all_lengths(tmp_path: Path) -> None:
    plain = manifest(tmp_path / "bundle", "optimum")
    options = dict(choose_providers(ALL, plain, WISH, MAX_LEN))[TENSORRT]
    assert options["trt_fp16_enable"] == "True"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0
    assert tmp_path / "caches" in folder.parents
    assert folder.name == plain.files["model.onnx"]
    low, high = (options[f"trt_profile_{end}_shapes"].split(",") for end in ("min", "max"))
    assert len(low) == len(high) == 3 + 2 * plain.num_layers
    assert "input_ids:1x1" in low and "input_ids:1x8" in high
    assert "attention_mask:1x1" in low and f"attention_mask:1x{MAX_LEN + 8}" in high
    assert "past_key_values.0.key:1x2x0x16" in low
    assert f"past_key_values.1.value:1x2x{MAX_LEN}x16" in high


class Gpu:
    """onnxruntime as a GPU build would look to the runtime; it keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.load(folder)
        self.bound: dict[str, list[tuple[str, int, NDArray[Any] | None]]] = {}
        self.log: list[str] = []
        self.values: list[NDArray[Any]] = []
        self.providers: list[tuple[str, dict[str, str]]] = []
        self.SessionOptions = onnxruntime.SessionOptions
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=self.value)
        self.__version__ = "0"

    def get_available_providers(self) -> list[str]:
        return ALL

    def InferenceSession(self, path: str, options: object, providers: Any) -> Gpu:
        self.providers = providers
        return self

    def value(self, array: NDArray[Any], device: str, device_id: int) -> Any:
        assert (device, device_id) == ("cuda", 0)
        self.values.append(array.copy())
        number = len(self.values)
        return SimpleNamespace(data_ptr=lambda: number)

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers]

    def get_inputs(self) -> list[Any]:
        layers = range(self.manifest.num_layers)
        cache = [f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value")]
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask", *cache)]

    def get_outputs(self) -> list[Any]:
        layers = range(self.manifest.num_layers)
        cache = [f"present.{i}.{part}" for i in layers for part in ("key", "value")]
        return [SimpleNamespace(name=name) for name in ("logits", *cache)]

    def io_binding(self) -> Gpu:
        return self

    def bind_input(
        self, name: str, device: str, number: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        """Binding copies: an input on the CPU counts as it is at this moment."""
        content = None
        if device == "cpu":
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raw = (ctypes.c_char * size).from_address(pointer)
            content = np.frombuffer(bytes(raw), dtype).reshape(shape)
        self.bound.setdefault(name, []).append((device, pointer, content))

    def bind_output(
        self, name: str, device: str, number: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        self.bound.setdefault(name, []).append((device, pointer, None))

    def run_with_iobinding(self, binding: object) -> None:
        self.log.append("run")

    def synchronize_outputs(self) -> None:
        self.log.append("synchronize")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    manifest(tmp_path, "fused", cache_dtype="float16", logits_dtype="float16")
    fake = Gpu(tmp_path)
    monkeypatch.setattr(ort_session, "ort", fake)
    return fake


def test_on_a_gpu_the_cache_stays_there_and_inputs_are_bound_when_they_are_written(
    gpu: Gpu, tmp_path: Path
) -> None:
    graph = open_graph(Bundle.open(tmp_path), RuntimeSettings(num_threads=1), MAX_LEN)
    assert gpu.get_providers() == [CUDA, CPU]
    for num_past, token_ids in ((0, [5, 6, 7]), (3, [8]), (4, [9])):
        row = graph.run(np.array(token_ids), num_past)
        assert row.dtype == np.float32
        device, _, ids = gpu.bound["input_ids"][-1]
        assert device == "cpu" and ids is not None and ids.tolist() == [token_ids]
        mask = gpu.bound["attention_mask"][-1][2]
        assert mask is not None and mask.shape == (1, num_past + len(token_ids))
    assert gpu.log == ["run", "synchronize"] * 3
    assert gpu.bound["logits"][-1][0] == "cpu"
    number = 0
    for layer in range(gpu.manifest.num_layers):
        for part in ("key", "value"):
            number += 1
            both = (
                gpu.bound[f"past_key_values.{layer}.{part}"],
                gpu.bound[f"present.{layer}.{part}"],
            )
            assert [bound[:2] for bound in (*both[0], *both[1])] == [("cuda", number)] * 2
    assert {value.shape for value in gpu.values} == {(1, 2, MAX_LEN, 16)}
    assert {value.dtype for value in gpu.values} == {np.dtype(np.float16)}


def test_on_a_cpu_ids_are_bound_once_for_drafted_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binding by address: what is written later is seen by the run. One token binds the mask only."""
    bound: list[str] = []
    bind = cached_graph._TokenIo.bind_input

    def watched(io: Any, name: str, *rest: Any) -> None:
        bound.append(name)
        bind(io, name, *rest)

    monkeypatch.setattr(cached_graph._TokenIo, "bind_input", watched)
    graph = open_graph(Bundle.open(make_bundle(tmp_path)), RuntimeSettings(num_threads=1), MAX_LEN)
    graph.run(np.arange(4), 0)
    graph.run(np.arange(1), 4)
    del bound[:]
    for num_past in range(5, 9):
        graph.run(np.arange(1), num_past)
    assert bound == ["attention_mask"] * 4
