from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from device_runtime import ort_session
from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.protocol.errors import BundleError, ConfigError
from device_runtime.protocol.runtime_versions import WINDOW_KEY
from device_runtime.settings import RuntimeSettings
from tests.tiny_bundle import TinyShape, make_bundle, write_manifest

ROOT = Path(__file__).parents[2]


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    """An import hook looks at the environment at the moment onnxruntime is first asked for."""
    code = """
import os, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Hook())
import device_runtime.onnx_drafter
"""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_only_one_module_imports_onnxruntime() -> None:
    """So that nothing reaches it around the telemetry switch."""
    importing = [
        path.name
        for path in (ROOT / "device_runtime").rglob("*.py")
        if "onnxruntime" in {name.split(".")[0] for name in imported(path)}
    ]
    assert importing == ["ort_session.py"]


def imported(path: Path) -> list[str]:
    """Names of the modules a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]


def test_settings_reach_the_session_options() -> None:
    settings = RuntimeSettings(num_threads=3, allow_spinning=False, memory_arena=False)
    options = ort_session.session_options(settings)
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.enable_cpu_mem_arena is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    default = ort_session.session_options(RuntimeSettings())
    assert default.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize("spinning", [False, True])
def test_no_thread_spins_beyond_the_end_of_a_run(spinning: bool) -> None:
    options = ort_session.session_options(RuntimeSettings(allow_spinning=spinning))
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_session_leaves_the_arithmetic_of_its_thread_alone(tmp_path: Path) -> None:
    """Laws are computed in the same thread: tiny weights must not become 0 there."""
    drafter = OnnxDrafter.open(make_bundle(tmp_path), RuntimeSettings(num_threads=1))
    drafter.append(np.arange(3))
    assert (np.full(64, 1e-310) * 0.5 > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"num_threads": -1}, {"max_tokens": 15}, {"max_tokens": 1 << 21}, {"prefill_chunk": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        RuntimeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "window", "warned"),
    [
        ("1.23.2", 32, True),
        ("1.24.0", 32, False),
        ("1.31.1", 32, False),
        ("2.0.0", 32, False),
        ("1.23.2", 64, False),  # no longer than the cache: never reached
        ("1.23.2", None, False),
        ("1.23.2", "wide", False),
        ("1.23.2", "9" * 5000, False),
    ],
)
def test_a_window_that_this_onnxruntime_sees_wrongly_is_said_in_one_sentence(
    version: str,
    window: int | str | None,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_bundle(tmp_path)
    if window is not None:
        model = onnx.load(folder / "model.onnx")
        onnx.helper.set_model_props(model, {WINDOW_KEY: str(window)})
        onnx.save(model, folder / "model.onnx")
        write_manifest(folder, "fused", TinyShape())
    monkeypatch.setattr(onnxruntime, "__version__", version)
    OnnxDrafter.open(folder, RuntimeSettings(num_threads=1)).append(np.arange(3))
    assert len(caplog.messages) == warned
    for message in caplog.messages:
        assert message.startswith("onnxruntime 1.23.2 lets this model's window of 32 positions")


def test_a_cache_that_this_onnxruntime_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(tmp_path)
    manifest = folder / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"cache_dtype": "float32"', '"cache_dtype": "int8"')
    )
    monkeypatch.setattr(onnxruntime, "__version__", "1.26.0")
    with pytest.raises(BundleError, match=r"onnxruntime 1\.26\.0 cannot read; .* --cache fp32, or"):
        OnnxDrafter.open(folder, RuntimeSettings(num_threads=1))


def test_drafters_opened_side_by_side_leave_standard_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path)
    pauses_s = iter([0.02, 0.05] * 4)

    def slowly(*_: Any, **__: Any) -> None:
        time.sleep(next(pauses_s))
        raise RuntimeError("opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", slowly)
    stdout, settings = sys.stdout, RuntimeSettings(num_threads=1)
    with ThreadPoolExecutor(8) as threads:
        opening = [threads.submit(OnnxDrafter.open, bundle, settings) for _ in range(8)]
    assert all("opened" in str(one.exception()) for one in opening)
    assert sys.stdout is stdout
