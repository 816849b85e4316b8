"""From facts about a machine to plain words: pure, so recorded machines test it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from device_runtime.cli import DISTRIBUTION
from device_runtime.doctor_power import Throttling
from device_runtime.doctor_probe import Cpu, Memory
from device_runtime.doctor_python import OnnxRuntime
from device_runtime.doctor_settings import Machine, Settings
from device_runtime.protocol.runtime_versions import (
    FIRST_WITH_INT8_CACHE,
    FIRST_WITH_RIGHT_WINDOWS,
    in_words,
    version_of,
)
from hw_profiles.schema import CUDA, DeviceProfile

Level = Literal["fix", "advice", "note"]

OLDEST_ONNXRUNTIME = (1, 23, 2)
LITTLE_MEMORY_BYTES = 250 * 2**20
"""int4 weights of a 135M model, its cache and Python need about this much."""
CLOSE_TO_LIMIT_C = 10.0

_JETPACKS = {"35": "5", "36": "6", "38": "7", "39": "7"}
_JETSON_INDEX = "https://pypi.jetson-ai-lab.io"


@dataclass(frozen=True, slots=True)
class Finding:
    """fix: cannot run before it is done · advice: worth doing · note: good to know."""

    level: Level
    text: str


def find_all(machine: Machine, profile: DeviceProfile, settings: Settings) -> tuple[Finding, ...]:
    """Everything worth saying, what must be fixed first."""
    found = [
        *_word_size(machine),
        *_onnxruntime(machine, settings),
        *_cpu(machine, settings),
        *_memory(machine.memory),
        *_heat(machine, profile),
        *_throttling(machine.throttling),
        *_power_mode(machine, profile),
        *_sensors(machine, profile),
        *_governor(machine.cpu),
    ]
    order: tuple[Level, ...] = ("fix", "advice", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _word_size(machine: Machine) -> Iterator[Finding]:
    python = machine.python
    remedy = (
        "onnxruntime and numpy exist only for 64 bits. Install a 64-bit system (Raspberry Pi OS "
        "64-bit runs on the Pi 3, 4, 5 and Zero 2 W)."
    )
    if machine.cpu.isa == "arm":
        yield Finding("fix", f"The kernel is a 32-bit one; {remedy}")
    elif python is not None and python.bits == 32:
        kernel = "The kernel has 64 bits, but" if machine.cpu.isa else "The"
        yield Finding("fix", f"{kernel} this Python and its system have 32 bits; {remedy}")


def _onnxruntime(machine: Machine, settings: Settings) -> Iterator[Finding]:
    python = machine.python
    if python is None:
        yield Finding("note", "Files of another machine were read: its Python was not examined.")
        return
    if python.bits == 32:
        return  # installing anything would fail
    install = f"pip install '{DISTRIBUTION}[{settings.extra}]'"
    others = [name for name in python.missing if name != "onnxruntime"]
    if others or (python.missing and settings.extra == "device"):
        yield Finding("fix", f"Missing: {', '.join(python.missing)}. Run: {install}")
    runtime = python.onnxruntime
    if settings.extra == "jetson" and (runtime is None or CUDA not in runtime.providers):
        yield _no_gpu(machine, runtime)
    if runtime is not None:
        another = "install another version: pip install --upgrade onnxruntime"
        if settings.extra == "jetson":  # pip's is for the CPU alone
            another = f"{_jetson_build(machine)}, in its place"
        yield from _installed(runtime, another)
    if python.version.startswith("3.10."):
        yield Finding("note", "Python 3.10: onnxruntime 1.23.2 is the newest build for it.")


def _jetson_build(machine: Machine) -> str:
    """What to do for an onnxruntime with NVIDIA's GPU."""
    release = (machine.board.jetson_release or "").partition(".")[0]
    jetpack = _JETPACKS.get(release)
    index = f"the index for JetPack {jetpack}" if jetpack else "the index for your JetPack"
    return f"take onnxruntime-gpu from {index} at {_JETSON_INDEX}"


def _no_gpu(machine: Machine, runtime: OnnxRuntime | None) -> Finding:
    how = _jetson_build(machine)
    if runtime is None:
        text = f"onnxruntime is missing: {how}; without the GPU: pip install onnxruntime"
        return Finding("fix", text)
    text = f"The GPU is passed over: this onnxruntime has no {CUDA}; {how}, in its place."
    return Finding("advice", text)


def _installed(runtime: OnnxRuntime, another: str) -> Iterator[Finding]:
    """another: how to get another version."""
    if runtime.problem is not None:
        text = f"onnxruntime {runtime.version or ''} is installed but broken: {runtime.problem}."
        if "SIGILL" in runtime.problem:
            text += (
                " The build uses instructions this CPU lacks (1.21.0 does so on a Raspberry Pi 4); "
                + another
            )
        yield Finding("fix", text.replace("  ", " "))
        return
    version = version_of(runtime.version or "")
    if version < OLDEST_ONNXRUNTIME:
        wanted = in_words(OLDEST_ONNXRUNTIME)
        text = f"onnxruntime {runtime.version} is older than {wanted}, the oldest that is tested"
        yield Finding("advice", f"{text}; {another}.")
    if version < FIRST_WITH_RIGHT_WINDOWS:
        yield Finding(
            "note",
            f"onnxruntime {runtime.version} lets a sliding window see one position more than 1.24 "
            "does: models that have one (Gemma 2 and 3, Mistral) draft a little worse with it.",
        )
    if version < FIRST_WITH_INT8_CACHE:
        yield Finding(
            "note",
            f"onnxruntime {runtime.version} cannot read a cache of 8 bits, which int4 and int8 bundles "
            "have by default: export with --cache fp32.",
        )


def _cpu(machine: Machine, settings: Settings) -> Iterator[Finding]:
    cpu = machine.cpu
    if cpu.isa in {"aarch64", "arm"} and not cpu.has_possible_list:
        yield Finding(
            "fix",
            "/sys/devices/system/cpu/possible is missing, and onnxruntime crashes without it: "
            "give the container its /sys.",
        )
    if not settings.profile_fits:
        yield Finding(
            "note",
            f"No profile is this machine; {settings.profile} is the closest by its cores or "
            "instruction sets. Copy that profile, put in your numbers, and name the file instead.",
        )
    if cpu.isa == "x86_64" and "avx2" not in cpu.features:
        yield Finding("advice", "The CPU has no AVX2: quantised weights will be slow here.")


def _memory(memory: Memory | None) -> Iterator[Finding]:
    if memory is not None and memory.available_bytes < LITTLE_MEMORY_BYTES:
        free = memory.available_bytes / 2**20
        yield Finding(
            "advice",
            f"Only {free:.0f} MiB of memory are free; a 135M model in int4 with its cache wants "
            "about 250. Stop other programs (a desktop is the largest).",
        )


def _heat(machine: Machine, profile: DeviceProfile) -> Iterator[Finding]:
    thermal = profile.thermal
    soft_c = thermal.soft_limit_c.value if thermal and thermal.soft_limit_c else None
    for zone in machine.zones:
        limit_c = zone.throttles_at_c if zone.throttles_at_c is not None else soft_c
        if limit_c is not None and zone.temperature_c >= limit_c - CLOSE_TO_LIMIT_C:
            yield Finding(
                "advice",
                f"{zone.name} is at {zone.temperature_c:.1f} °C and slows down from "
                f"{limit_c:.0f} °C: cool the board, or expect changing speeds.",
            )


def _throttling(throttling: Throttling | None) -> Iterator[Finding]:
    if throttling is None:
        return
    supply = "use the board's own supply and a short cable"
    if "under-voltage" in throttling.now:
        yield Finding("advice", f"The supply voltage is too low now: {supply}.")
    if slow := [text for text in throttling.now if text != "under-voltage"]:
        yield Finding("advice", f"Held back now: {', '.join(slow)}. Speeds measured now are low.")
    if throttling.since_boot and not throttling.now:
        happened = ", ".join(throttling.since_boot)
        remedy = f": {supply}" if "under-voltage" in throttling.since_boot else ""
        yield Finding("note", f"Happened since boot: {happened}{remedy}.")


def _power_mode(machine: Machine, profile: DeviceProfile) -> Iterator[Finding]:
    mode = machine.power_mode
    if mode is None:
        return
    firmware = "super" if (machine.board.model or "").endswith("Super") else "original"
    rows = [row for row in profile.modes if row.firmware == firmware]
    row = next((row for row in rows if row.name == mode.name), None)
    if row is None:
        return
    online = sum(cores.num_cores for cores in machine.cpu.cores)
    if online != row.num_cores.value:
        yield Finding(
            "advice",
            f"nvpmodel says {mode.name}, which has {row.num_cores.value:.0f} cores, but {online} "
            "are online: reboot (such modes fail silently over SSH).",
        )
    default = next((r.name for r in rows if r.is_default), None)
    hint = f" The default is {default}." if default and not row.is_default else ""
    note = f" {row.note}" if row.note else ""
    text = f"Power mode {mode.name}: modes cap clocks, not watts.{hint}{note}"
    yield Finding("note", f"{text} Note it beside every measurement.")


def _sensors(machine: Machine, profile: DeviceProfile) -> Iterator[Finding]:
    own = profile.power.sensor
    if not machine.sensors:
        nothing = "No power sensor can be read here."
        words = (
            f" {own.covers}" if own.kind == "none" else " Joules are modelled or metered outside."
        )
        yield Finding("note", nothing + words)
        return
    if any(sensor.kind == own.kind for sensor in machine.sensors):
        text = f"Power is measured by the {own.kind.upper()}: {own.covers}"
        if own.wall_per_sensor_ratio is not None:
            text += f" At the supply it is about {own.wall_per_sensor_ratio.value:.4g} × as much"
            offset = own.wall_offset_w
            text += f" plus {offset.value:.4g} W." if offset is not None else "."
        yield Finding("note", text)
    if locked := [sensor.path for sensor in machine.sensors if not sensor.readable]:
        yield Finding(
            "advice",
            f"Only root may read {', '.join(locked)}: give your group the right with a udev rule, "
            "or run measurements as root.",
        )


def _governor(cpu: Cpu) -> Iterator[Finding]:
    slow = [governor for governor in cpu.governors if governor != "performance"]
    if slow:
        yield Finding(
            "note",
            f"CPU governor {', '.join(slow)}: fine for use. For measurements: echo performance | "
            "sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
        )
