"""Facts about the machine and the software that measure: they go into every record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from device_runtime.doctor_probe import probe_board, probe_cpu, probe_memory

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("numpy", "onnxruntime", "torch", "transformers")


def collect(root: Path = Path("/"), checkout: Path = CHECKOUT) -> dict[str, Any]:
    """Facts by the keys of `benchmarks.record_keys`; what is not known is left out.

    `root` holds proc/ and sys/. Packages are looked up, not imported: torch alone takes seconds.
    """
    facts = dict([*_hardware(root), *_system(), *_software(), *_code(checkout)])
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _hardware(root: Path) -> Iterator[tuple[str, Any]]:
    cpu, memory = probe_cpu(root), probe_memory(root)
    clocks_hz = [cores.max_clock_hz for cores in cpu.cores if cores.max_clock_hz is not None]
    yield "board", probe_board(root).model
    yield "cpu_model", " + ".join(cores.name for cores in cpu.cores) or platform.processor()
    yield "cpu_max_hz", max(clocks_hz, default=None)
    yield "governor", ", ".join(cpu.governors)
    yield "memory_bytes", memory and memory.total_bytes


def _system() -> Iterator[tuple[str, Any]]:
    yield "architecture", platform.machine()
    yield "num_cpus", os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # on Linux
        yield "num_usable_cpus", len(os.sched_getaffinity(0))
    yield "os", _os_name()
    yield "kernel", platform.release()
    yield "load_1min", round(os.getloadavg()[0], 2)
    yield "date", datetime.now(timezone.utc).isoformat(timespec="seconds")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _software() -> Iterator[tuple[str, Any]]:
    yield "python_version", platform.python_version()
    for package in PACKAGES:
        try:
            yield f"{package}_version", importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _code(checkout: Path) -> Iterator[tuple[str, Any]]:
    """Commit and whether tracked files differ from it; nothing outside a repository of its own."""
    told = _git(checkout, "rev-parse", "--show-prefix", "HEAD")
    prefix, _, commit = (told or "").partition("\n")
    if prefix or not commit:
        return
    yield "git_commit", commit
    yield "git_dirty", bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", checkout, *arguments],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")
