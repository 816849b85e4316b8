"""What onnxruntime is asked for on a machine with a GPU; no GPU is needed, and none was used."""

from __future__ import annotations

import ctypes
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from device_runtime import ort_session
from device_runtime.bundle import MANIFEST_FILE, Bundle, load_manifest
from device_runtime.cached_graph import CachedGraph, open_graph
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.manifest import Manifest
from device_runtime.providers import choose_providers
from device_runtime.settings import RuntimeSettings
from hw_profiles.schema import CPU, CUDA, TENSORRT
from tests.tiny_bundle import make_bundle

ALL = [TENSORRT, CUDA, CPU]
MAX_LEN = 32
WISH = RuntimeSettings(num_threads=1, prefill_chunk=8, providers=(TENSORRT, CUDA, CPU))


def manifest(folder: Path, graph: str, **changes: object) -> Manifest:
    """A bundle's manifest with other values, also on disk."""
    path = make_bundle(folder, graph) / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return load_manifest(folder)


def names(available: list[str], of: Manifest, settings: RuntimeSettings = WISH) -> list[str]:
    return [name for name, _ in choose_providers(available, of, settings, MAX_LEN)[0]]


def passed_over(available: list[str], of: Manifest, settings: RuntimeSettings = WISH) -> list[str]:
    return choose_providers(available, of, settings, MAX_LEN)[1]


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_a_fused_graph_goes_to_cuda_in_half_precision_only(tmp_path: Path) -> None:
    half = manifest(tmp_path / "half", "fused", cache_dtype="float16", weights="fp16")
    assert names(ALL, half) == [CUDA, CPU]
    assert names(ALL, manifest(tmp_path / "single", "fused")) == [CPU]
    assert names([CPU], half) == [CPU]
    assert names(ALL, half, RuntimeSettings(providers=(CPU,))) == [CPU]


def test_a_plain_graph_goes_to_tensorrt_only_if_that_is_wished(tmp_path: Path) -> None:
    plain = manifest(tmp_path, "optimum")
    assert names(ALL, plain) == [TENSORRT, CUDA, CPU]
    assert names(ALL, plain, RuntimeSettings()) == [CUDA, CPU]
    assert names([CUDA, CPU], plain) == [CUDA, CPU]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("int4", [CUDA, CPU]), ("int8", [CUDA, CPU]), ("int8-dynamic", [CPU])],
)
def test_quantised_products_go_where_there_are_kernels_for_them(
    weights: str, expected: list[str], tmp_path: Path
) -> None:
    quantised = manifest(tmp_path, "optimum", weights=weights)
    assert names(ALL, quantised) == expected
    assert any(f"no products of {weights} weights" in text for text in passed_over(ALL, quantised))


@pytest.mark.parametrize(
    ("graph", "changes", "available", "wish", "expected"),
    [
        ("fused", {}, ALL, (CUDA, CPU), f"{CUDA} .*float16, and the fp32 .*--weights fp16"),
        ("fused", {}, [CPU], (CUDA, CPU), f"{CUDA} .*{CPU} only; install onnxruntime-gpu"),
        ("fused", {}, ALL, (TENSORRT,), f"{TENSORRT} .*no GroupQueryAttention; .*--graph optimum"),
        ("optimum", {"weights": "int4"}, ALL, (TENSORRT, CUDA), f"{TENSORRT} .*--weights fp32"),
        ("optimum", {}, ALL, ("XnnpackExecutionProvider",), "Xnnpack.*drives the CPU, CUDA and"),
        ("fused", {}, ALL, (), f"{CUDA} .*export the model with --weights fp16"),
    ],
)
def test_a_provider_that_is_passed_over_gets_one_sentence(
    graph: str, changes: dict[str, str], available: list[str], wish: tuple[str, ...], expected: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    of = manifest(tmp_path, graph, **changes)
    (sentence,) = passed_over(available, of, RuntimeSettings(providers=wish))
    assert re.match(expected, sentence), sentence
    assert sentence.endswith(".") and sentence.count(". ") == 0


@pytest.mark.parametrize(
    ("graph", "available", "wish"),
    [
        ("fused", [CPU], ()),  # nobody asked for a GPU
        ("fused", ALL, (CPU,)),
        ("optimum", ALL, (TENSORRT, CUDA, CPU)),
    ],
)
def test_there_is_no_word_where_the_wish_is_granted(
    graph: str, available: list[str], wish: tuple[str, ...], tmp_path: Path
) -> None:
    of = manifest(tmp_path, graph)
    assert passed_over(available, of, RuntimeSettings(providers=wish)) == []


def test_cuda_takes_no_more_memory_than_it_needs(tmp_path: Path) -> None:
    options = dict(choose_providers(ALL, manifest(tmp_path, "optimum"), WISH, MAX_LEN)[0])
    assert options[CUDA] == {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}


def test_tensorrt_builds_one_half_precision_engine_for_all_lengths(tmp_path: Path) -> None:
    plain = manifest(tmp_path / "bundle", "optimum")
    options = dict(choose_providers(ALL, plain, WISH, MAX_LEN)[0])[TENSORRT]
    assert options["trt_fp16_enable"] == "True"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0
    assert tmp_path / "caches" in folder.parents
    low, high = (options[f"trt_profile_{end}_shapes"].split(",") for end in ("min", "max"))
    assert len(low) == len(high) == 3 + 2 * plain.num_layers
    assert "input_ids:1x1" in low and "input_ids:1x8" in high
    assert "attention_mask:1x1" in low and f"attention_mask:1x{MAX_LEN + 8}" in high
    assert "past_key_values.0.key:1x2x0x16" in low
    assert f"past_key_values.1.value:1x2x{MAX_LEN}x16" in high


def test_a_model_and_its_fine_tune_share_no_engine(tmp_path: Path) -> None:
    """Their graphs are equal where the weights lie in a file of their own."""
    plain = manifest(tmp_path, "optimum")
    folders = {
        dict(choose_providers(ALL, of, WISH, MAX_LEN)[0])[TENSORRT]["trt_engine_cache_path"]
        for digest in ("0" * 64, "1" * 64, "0" * 64)
        for of in [replace(plain, files=plain.files | {"model.onnx_data": digest})]
    }
    assert len(folders) == 2


@pytest.mark.parametrize("error", [PermissionError(13, "closed"), RuntimeError("no home")])
def test_engines_are_not_kept_where_there_is_no_home_to_write_to(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed() -> Path:
        raise error

    plain = manifest(tmp_path, "optimum")
    monkeypatch.setenv("XDG_CACHE_HOME", "no/absolute/path")  # does not count
    monkeypatch.setattr(Path, "home", closed)
    options = dict(choose_providers(ALL, plain, WISH, MAX_LEN)[0])[TENSORRT]
    assert options["trt_fp16_enable"] == "True"
    assert not any("cache" in name for name in options)


class Value:
    """An OrtValue on the GPU, with an address of its own."""

    def __init__(self, array: NDArray[Any], address: int) -> None:
        self.array, self.address = array.copy(), address

    def data_ptr(self) -> int:
        return self.address

    def numpy(self) -> NDArray[Any]:
        return self.array.copy()

    def update_inplace(self, array: NDArray[Any]) -> None:
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        self.array[:] = array


class Gpu:
    """onnxruntime as a GPU build would look to the runtime; it keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.manifest = load_manifest(folder)
        self._on_cpu = onnxruntime.InferenceSession(folder / "model.onnx")
        self.bound: dict[str, list[tuple[str, int, NDArray[Any] | None]]] = {}
        self.log: list[str] = []
        self.values: list[Value] = []
        self.providers: list[tuple[str, dict[str, str]]] = []
        self.broken: tuple[str, ...] = ()
        self.SessionOptions = onnxruntime.SessionOptions
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=self.value)
        self.__version__ = "1.31.1"

    def get_available_providers(self) -> list[str]:
        return ALL

    def InferenceSession(self, path: str, options: object, providers: Any) -> Gpu:
        self.providers = [entry for entry in providers if entry[0] not in self.broken]
        if self.broken:
            print("*************** EP Error ***************")
        return self

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={})

    def value(self, array: NDArray[Any], device: str, device_id: int) -> Value:
        assert (device, device_id) == ("cuda", 0)
        self.values.append(Value(array, 1000 + len(self.values)))
        return self.values[-1]

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers]

    def get_inputs(self) -> list[Any]:
        return [self._described(item) for item in self._on_cpu.get_inputs()]

    def get_outputs(self) -> list[Any]:
        return [self._described(item) for item in self._on_cpu.get_outputs()]

    def _described(self, item: Any) -> Any:
        """The bundles' graphs are float32; the cache counts as what the manifest says."""
        is_half = "." in item.name and self.manifest.cache_dtype == "float16"
        kind = "tensor(float16)" if is_half else item.type
        return SimpleNamespace(name=item.name, type=kind, shape=item.shape)

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

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        self.bound.setdefault(name, []).append(("cpu", array.ctypes.data, array.copy()))

    def bind_output(
        self, name: str, device: str, number: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        self.bound.setdefault(name, []).append((device, pointer, None))

    def run_with_iobinding(self, binding: object) -> None:
        self.log.append("run")

    def synchronize_outputs(self) -> None:
        self.log.append("synchronize")


def gpu_build(folder: Path, monkeypatch: pytest.MonkeyPatch, graph: str, **changes: object) -> Gpu:
    manifest(folder, graph, **changes)
    fake = Gpu(folder)
    monkeypatch.setattr(ort_session, "ort", fake)
    return fake


HALF = {"cache_dtype": "float16", "weights": "fp16"}
ONE_THREAD = RuntimeSettings(num_threads=1)


def test_on_a_gpu_the_cache_stays_there_and_inputs_are_bound_when_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = gpu_build(tmp_path, monkeypatch, "fused", **HALF)
    graph = open_graph(Bundle.open(tmp_path), ONE_THREAD, MAX_LEN)
    assert gpu.get_providers() == [CUDA, CPU]
    for num_past, token_ids in ((0, [5, 6, 7]), (3, [8]), (4, [9])):
        row = graph.run(np.array(token_ids), num_past)
        assert row.dtype == np.float32
        device, _, ids = gpu.bound["input_ids"][-1]
        assert device == "cpu" and ids is not None and ids.tolist() == [token_ids]
        last, count = (gpu.bound[name][-1][2] for name in ("last_position", "num_positions"))
        assert last is not None and last.tolist() == [num_past + len(token_ids) - 1]
        assert count is not None and count.tolist() == num_past + len(token_ids)
    assert gpu.log == ["run", "synchronize"] * 3
    assert gpu.bound["logits"][-1][0] == "cpu"
    values = iter(gpu.values)
    for layer in range(gpu.manifest.num_layers):
        for part in ("key", "value"):
            past = gpu.bound[f"past_key_values.{layer}.{part}"]
            present = gpu.bound[f"present.{layer}.{part}"]
            address = next(values).address
            assert [bound[:2] for bound in (*past, *present)] == [("cuda", address)] * 2
    assert {value.array.shape for value in gpu.values} == {(1, 2, MAX_LEN, 16)}
    assert {value.array.dtype for value in gpu.values} == {np.dtype(np.float16)}


def test_a_gpu_without_room_for_the_cache_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory\n at BFCArena")

    gpu = gpu_build(tmp_path, monkeypatch, "fused", **HALF)
    gpu.OrtValue = SimpleNamespace(ortvalue_from_numpy=full)
    with pytest.raises(TandemError, match=r"\(CUDA failure 2: out of memory\); free"):
        open_graph(Bundle.open(tmp_path), ONE_THREAD, MAX_LEN)


def test_without_a_gpu_in_force_the_cache_stays_in_main_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """onnxruntime lists CUDA and cannot start it, as where cuDNN is missing."""
    gpu = gpu_build(tmp_path, monkeypatch, "fused", **HALF)
    gpu.broken = (CUDA,)
    graph = open_graph(Bundle.open(tmp_path), ONE_THREAD, MAX_LEN)
    graph.run(np.array([5]), 0)
    assert gpu.values == []
    assert {bound[0] for calls in gpu.bound.values() for bound in calls} == {"cpu"}
    absent, slow = caplog.messages
    assert absent == f"{CUDA} is passed over: onnxruntime could not start it."
    assert slow.startswith("A bundle of float16 runs on the CPU, ")
    assert slow.endswith("; export the model with --weights int4 for this machine.")
    assert capsys.readouterr().out == ""  # what onnxruntime prints is not a part of the text


def test_a_cache_that_grows_takes_turns_on_the_gpu_and_loses_its_gaps_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = gpu_build(tmp_path, monkeypatch, "optimum")
    graph = open_graph(Bundle.open(tmp_path), ONE_THREAD, MAX_LEN)
    assert gpu.get_providers() == [CUDA, CPU]
    graph.run(np.arange(4), 0)
    device, written, _ = gpu.bound["present.0.key"][-1]
    assert device == "cuda"
    graph.run(np.arange(1), 4)
    assert gpu.bound["past_key_values.0.key"][-1][:2] == ("cuda", written)
    assert gpu.bound["present.0.key"][-1][1] != written
    held = next(v for v in gpu.values if v.address == gpu.bound["present.0.key"][-1][1])
    heads = np.arange(2 * 5 * 16, dtype=np.float32).reshape(2, 5, 16)
    held.array[: heads.size] = heads.reshape(-1)
    graph.run(np.arange(1), 3)  # two of the five are taken back
    device, address, _ = gpu.bound["past_key_values.0.key"][-1]
    kept = next(v for v in gpu.values if v.address == address)
    assert device == "cuda"
    np.testing.assert_array_equal(kept.array[: 2 * 3 * 16].reshape(2, 3, 16), heads[:, :3])


def test_a_wished_gpu_that_is_not_there_is_said_once_and_the_cpu_drafts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(make_bundle(tmp_path))
    open_graph(bundle, ONE_THREAD, MAX_LEN).run(np.arange(3), 0)
    assert caplog.messages == []
    wish = RuntimeSettings(num_threads=1, providers=(CUDA, CPU))
    if CUDA not in onnxruntime.get_available_providers():
        open_graph(bundle, wish, MAX_LEN).run(np.arange(3), 0)
        (sentence,) = caplog.messages
        assert sentence.startswith(f"{CUDA} is passed over: this onnxruntime has")


def test_on_a_cpu_ids_are_bound_once_for_drafted_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binding by address: what is written later is seen by the run. One token binds nothing."""
    bound: list[str] = []
    for way in ("_bind_input", "_bind_constant"):
        bind = getattr(CachedGraph, way)

        def watched(io: Any, name: str, *rest: Any, bind: Any = bind) -> None:
            bound.append(name)
            bind(io, name, *rest)

        monkeypatch.setattr(CachedGraph, way, watched)
    graph = open_graph(Bundle.open(make_bundle(tmp_path)), RuntimeSettings(num_threads=1), MAX_LEN)
    graph.run(np.arange(4), 0)
    graph.run(np.arange(1), 4)
    del bound[:]
    for num_past in range(5, 9):
        graph.run(np.arange(1), num_past)
    assert bound == []
