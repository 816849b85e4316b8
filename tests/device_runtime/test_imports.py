"""What the device loads: never torch, never transformers, and little at start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from device_runtime import doctor_python

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_of_the_device_needs_more_than_its_extra() -> None:
    """Neither torch and its kin, nor what only the workstation's verbs draw with."""
    out = run("""
import importlib, pkgutil, sys
for heavy in ("torch", "transformers", "optimum", "onnx", "rich", "matplotlib"):
    sys.modules[heavy] = None  # importing it now raises ImportError
import device_runtime, hw_profiles
names = [
    module.name for package in (device_runtime, hw_profiles)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print("device_runtime.onnx_drafter" in names and "device_runtime.protocol.wire" in names)
""")
    assert out == "True\n"


def test_the_protocol_needs_no_more_than_numpy() -> None:
    run("""
import importlib, pkgutil, sys
for outside in (
    "onnxruntime", "tokenizers", "aiohttp", "jinja2", "rich", "torch", "transformers", "zstandard"
):
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


def test_the_doctor_looks_for_what_the_extra_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = [name_of(line) for line in project["dependencies"]]
    device, jetson = ([name_of(line) for line in extras[extra]] for extra in ("device", "jetson"))
    assert {*base, *device} - {"tomli"} == set(doctor_python.PACKAGES)
    assert [name for name in device if name != "onnxruntime"] == jetson
    for extra in ("export", "bench", "edge"):
        assert "rich" in map(name_of, extras[extra])


def name_of(requirement: str) -> str:
    return Requirement(requirement).name
