"""What the device loads: never torch, never transformers, and little at start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_of_the_device_needs_torch_or_transformers() -> None:
    out = run("""
import importlib, pkgutil, sys
for heavy in ("torch", "transformers", "optimum", "onnx"):
    sys.modules[heavy] = None  # importing it now raises ImportError
import device_runtime
names = [m.name for m in pkgutil.walk_packages(device_runtime.__path__, "device_runtime.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print("device_runtime.onnx_drafter" in names and "device_runtime.protocol.wire" in names)
""")
    assert out == "True\n"


def test_the_protocol_needs_no_more_than_numpy_and_zstandard() -> None:
    run("""
import importlib, pkgutil, sys
for outside in ("onnxruntime", "tokenizers", "aiohttp", "jinja2", "rich", "torch", "transformers"):
    sys.modules[outside] = None
import device_runtime.protocol as protocol
for module in pkgutil.walk_packages(protocol.__path__, "device_runtime.protocol."):
    importlib.import_module(module.name)
""")


def test_jinja_is_loaded_only_for_a_chat() -> None:
    out = run("""
import sys, device_runtime.chat_template
print("jinja2" in sys.modules)
template = device_runtime.chat_template.ChatTemplate("x", "", "", ())
print(template.render([])[0].text, "jinja2" in sys.modules)
""")
    assert out == "False\nx True\n"
