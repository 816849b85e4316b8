"""What a Linux machine says about itself in /proc and /sys, below any root folder.

Nothing here judges or prints. A file that is missing or unreadable is a fact too: None or empty.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Arm's part numbers of the cores that appear on boards of this kind (implementer 0x41).
ARM_CORES = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
    0xD83: "Neoverse-V3AE",
    0xD84: "Neoverse-V3",
}

# The kernel's names of instruction sets → the names used in hw_profiles.
CPU_FLAGS = {
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "bf16": "bf16",
    "aes": "aes",
    "avx2": "avx2",
    "fma": "fma",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
}


@dataclass(frozen=True, slots=True)
class Board:
    """Which machine it is."""

    model: str | None
    compatibles: tuple[str, ...]
    jetson_release: str | None
    """Release of Jetson Linux, as `36.4.3`."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Online cores of one kind."""

    name: str
    num_cores: int
    max_clock_hz: float | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as /proc/cpuinfo and cpufreq describe it."""

    isa: str | None
    """aarch64, arm (32 bit), x86_64, or None if unknown."""
    cores: tuple[Cores, ...]
    """The fastest first. On x86 these are physical cores."""
    features: tuple[str, ...]
    governors: tuple[str, ...]
    has_possible_list: bool
    """Whether /sys/devices/system/cpu/possible exists; onnxruntime crashes without it on ARM."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the whole machine."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Zone:
    """One temperature sensor of the kernel."""

    name: str
    temperature_c: float
    throttles_at_c: float | None
    """Lowest trip point of type passive; None where the kernel has none."""


def read_text(path: Path) -> str | None:
    """The file's text without NULs and blanks at the ends; None where it cannot be read.

    A thermal zone of a part that is switched off answers EAGAIN: that is an OSError like others.
    """
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """The number in the file, None where there is none."""
    try:
        return float(read_text(path) or "")
    except ValueError:
        return None


def probe_board(root: Path) -> Board:
    """Device tree on ARM, DMI on PCs."""
    tree = root / "proc/device-tree"
    model = read_text(tree / "model")
    if model is None:
        dmi = root / "sys/class/dmi/id"
        parts = (read_text(dmi / "sys_vendor"), read_text(dmi / "product_name"))
        model = " ".join(filter(None, parts)) or None
    compatibles = tuple(filter(None, (read_text(tree / "compatible") or "").split("\0")))
    return Board(model, compatibles, _jetson_release(root))


def _jetson_release(root: Path) -> str | None:
    # First line: "# R36 (release), REVISION: 4.3, GCID: …".
    text = read_text(root / "etc/nv_tegra_release") or ""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def probe_cpu(root: Path) -> Cpu:
    """Cores by kind, instruction sets, governors."""
    text = read_text(root / "proc/cpuinfo") or ""
    blocks = [_fields(block) for block in re.split(r"\n\s*\n", text)]
    processors = [block for block in blocks if "processor" in block]
    system = root / "sys/devices/system/cpu"
    policies = sorted((system / "cpufreq").glob("policy[0-9]*"))
    governors = {read_text(policy / "scaling_governor") for policy in policies} - {None}
    flags = set(_flags(processors[0]) if processors else ())
    return Cpu(
        isa=_isa(processors, flags),
        cores=_cores(processors, _max_clocks_hz(policies)),
        features=tuple(name for flag, name in CPU_FLAGS.items() if flag in flags),
        governors=tuple(sorted(filter(None, governors))),
        has_possible_list=(system / "possible").exists(),
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _flags(processor: dict[str, str]) -> list[str]:
    return (processor.get("Features") or processor.get("flags") or "").split()


def _isa(processors: list[dict[str, str]], flags: set[str]) -> str | None:
    if not processors:
        return None
    if "CPU implementer" in processors[0]:
        # A 64-bit kernel lists asimd where a 32-bit one lists neon.
        return "aarch64" if "asimd" in flags else "arm"
    return "x86_64" if "lm" in flags else None


def _max_clocks_hz(policies: list[Path]) -> dict[int, float]:
    """CPU number → its highest clock."""
    clocks = {}
    for policy in policies:
        clock_khz = read_number(policy / "cpuinfo_max_freq")
        for cpu in (read_text(policy / "related_cpus") or "").split():
            if clock_khz is not None:
                clocks[int(cpu)] = clock_khz * 1e3
    return clocks


def _cores(processors: list[dict[str, str]], clocks_hz: dict[int, float]) -> tuple[Cores, ...]:
    kinds: Counter[tuple[str, float | None]] = Counter()
    seen = set()
    for processor in processors:
        number = int(processor["processor"])
        # x86 threads of one core share both ids; ARM gives none, so each processor is a core.
        place = (processor.get("physical id"), processor.get("core id", str(number)))
        if place not in seen:
            seen.add(place)
            kinds[_core_name(processor), clocks_hz.get(number)] += 1
    cores = [Cores(name, count, clock_hz) for (name, clock_hz), count in kinds.items()]
    return tuple(sorted(cores, key=lambda c: c.max_clock_hz or 0.0, reverse=True))


def _core_name(processor: dict[str, str]) -> str:
    if "CPU part" not in processor:
        return processor.get("model name", "unknown core")
    part = processor["CPU part"]
    if processor.get("CPU implementer") == "0x41" and int(part, 16) in ARM_CORES:
        return ARM_CORES[int(part, 16)]
    return f"unknown core (implementer {processor.get('CPU implementer')}, part {part})"


def probe_memory(root: Path) -> Memory | None:
    """From /proc/meminfo; None where it is missing."""
    text = read_text(root / "proc/meminfo") or ""
    found = {key: int(kib) * 1024 for key, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}
    if "MemTotal" not in found:
        return None
    return Memory(found["MemTotal"], found.get("MemAvailable", found.get("MemFree", 0)))


def probe_zones(root: Path) -> tuple[Zone, ...]:
    """The kernel's temperature sensors, the hottest first."""
    zones = []
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        milli_c = read_number(folder / "temp")
        if milli_c is not None:
            name = read_text(folder / "type") or folder.name
            zones.append(Zone(name, milli_c / 1e3, _passive_trip_c(folder)))
    return tuple(sorted(zones, key=lambda zone: zone.temperature_c, reverse=True))


def _passive_trip_c(folder: Path) -> float | None:
    trips = []
    for kind in folder.glob("trip_point_*_type"):
        milli_c = read_number(folder / kind.name.replace("_type", "_temp"))
        # Not set where it is 0 or lower: the kernel then gives 0, or -274000 for an invalid one.
        if read_text(kind) == "passive" and milli_c is not None and milli_c > 0:
            trips.append(milli_c / 1e3)
    return min(trips, default=None)
