"""Power sensors, throttling and power modes: sysfs, and two vendor commands where they exist."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.doctor_probe import read_text
from device_runtime.energy.pmic import parse_channels, rail_names


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit status (negative: killed by that signal) and what was printed, warnings apart from it."""

    status: int
    output: str
    errors: str = ""


CommandRunner = Callable[[Sequence[str]], "CommandResult | None"]
"""Runs a command; None where it does not exist, cannot start or takes too long."""

# Bits of `vcgencmd get_throttled`; the same 16 bits higher: since boot.
THROTTLE_BITS = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True, slots=True)
class Throttling:
    """What holds a Raspberry Pi back now, and what did since it was started."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PowerSensor:
    """One way to read power or energy on this machine."""

    kind: str
    """ina3221, ina238 and other ina chips, pmic, rapl."""
    path: str
    """Below the root; the command for the PMIC."""
    rails: tuple[str, ...]
    readable: bool


@dataclass(frozen=True, slots=True)
class PowerMode:
    """What nvpmodel reports."""

    id: str
    name: str


def run_command(command: Sequence[str]) -> CommandResult | None:
    """The real runner: at most 20 s, English output, no telemetry from onnxruntime."""
    environment = os.environ | {"LC_ALL": "C", "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return CommandResult(done.returncode, done.stdout, done.stderr)


def probe_throttling(run: CommandRunner) -> Throttling | None:
    """None where there is no `vcgencmd`."""
    done = run(["vcgencmd", "get_throttled"])
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", done.output if done else "")
    if found is None:
        return None
    bits = int(found[1], 16)
    return Throttling(
        now=tuple(text for bit, text in THROTTLE_BITS.items() if bits >> bit & 1),
        since_boot=tuple(text for bit, text in THROTTLE_BITS.items() if bits >> (bit + 16) & 1),
    )


def probe_power_mode(run: CommandRunner) -> PowerMode | None:
    """None where there is no nvpmodel, or it may not be asked."""
    done = run(["nvpmodel", "-q"])
    found = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)", done.output if done else "")
    return PowerMode(found[2], found[1]) if found else None


def probe_sensors(root: Path, run: CommandRunner) -> tuple[PowerSensor, ...]:
    """Everything that measures power here, by itself or with an attached meter chip."""
    return (*_ina3221(root), *_other_ina(root), *_pmic(run), *_rapl(root))


def _ina3221(root: Path) -> Iterator[PowerSensor]:
    # The numbers of hwmon folders change from boot to boot: find them, read the labels.
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")):
        labels = [f"in{channel}_label" for channel in (1, 2, 3)]
        yield _sensor(root, folder, "ina3221", labels, "in1_input")


def _other_ina(root: Path) -> Iterator[PowerSensor]:
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        kind = read_text(folder / "name") or ""
        if kind.startswith("ina") and kind != "ina3221":
            yield _sensor(root, folder, kind, ["power1_label"], "power1_input")


def _pmic(run: CommandRunner) -> list[PowerSensor]:
    done = run(["vcgencmd", "pmic_read_adc"])
    # Boards without the chip print an error instead of channels.
    rails = rail_names(parse_channels(done.output if done else ""))
    return [PowerSensor("pmic", "vcgencmd pmic_read_adc", rails, readable=True)] if rails else []


def _rapl(root: Path) -> Iterator[PowerSensor]:
    # intel-rapl:N are packages, intel-rapl:N:M their parts; AMD uses the same names.
    for folder in sorted((root / "sys/class/powercap/intel-rapl").glob("intel-rapl:*")):
        if folder.name.count(":") == 1:
            yield _sensor(root, folder, "rapl", ["name"], "energy_uj")


def _sensor(
    root: Path, folder: Path, kind: str, labels: Sequence[str], reading: str
) -> PowerSensor:
    """The sensor of a folder of sysfs; `labels` and `reading` are names of files in it."""
    rails = tuple(filter(None, (read_text(folder / label) for label in labels)))
    readable = read_text(folder / reading) is not None
    return PowerSensor(kind, f"/{folder.relative_to(root).as_posix()}", rails, readable)
