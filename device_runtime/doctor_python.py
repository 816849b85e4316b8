"""The Python at work and its onnxruntime, which is tried in a child: a crash there is a finding."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import signal
import struct
import sys
from dataclasses import dataclass

from device_runtime.doctor_power import CommandRunner

PACKAGES = ("numpy", "onnxruntime", "tokenizers", "aiohttp", "jinja2")
"""What `tandem run` imports."""

_TRY = (
    "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"
)


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """An installed onnxruntime; `problem` says why it cannot be imported."""

    version: str | None
    providers: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs, and what it can import."""

    version: str
    bits: int
    machine: str
    """Of the kernel, as `uname -m` gives it."""
    missing: tuple[str, ...]
    """Packages of PACKAGES that are not installed."""
    onnxruntime: OnnxRuntime | None


def probe_interpreter(run: CommandRunner) -> Interpreter:
    """Facts about the running Python."""
    missing = tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)
    return Interpreter(
        version=platform.python_version(),
        bits=8 * struct.calcsize("P"),
        machine=platform.machine(),
        missing=missing,
        onnxruntime=None if "onnxruntime" in missing else try_onnxruntime(run),
    )


def try_onnxruntime(run: CommandRunner) -> OnnxRuntime:
    """Import it in a child: builds made for other cores die of illegal instructions."""
    done = run([sys.executable, "-c", _TRY])
    if done is None:
        return OnnxRuntime(_installed_version(), (), "it could not be tried in a child process")
    if done.status == 0:
        try:
            version, providers = json.loads(done.output.strip().rpartition("\n")[2])
            return OnnxRuntime(version, tuple(providers), None)
        except (ValueError, TypeError):
            problem = "it does not tell its version and providers"
    elif done.status < 0:
        problem = f"importing it ends with {_signal_name(-done.status)}"
    else:
        said = done.errors.strip().rpartition("\n")[2]
        problem = said or f"importing it ends with exit code {done.status}"
    return OnnxRuntime(_installed_version(), (), problem)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _installed_version() -> str | None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
