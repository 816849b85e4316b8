"""The power chip of a Raspberry Pi 5: voltages and currents of its output rails.

Read through the firmware's mailbox (/dev/vcio), or by the command vcgencmd where that is closed to
us. Names of channels end in _A and _V; a rail counts if both are there (EXT5V and BATT are voltages
alone). Their order is not relied on.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

from device_runtime.energy.meter import MeterFacts, WallFit

READ_ADC = "pmic_read_adc"
MAILBOX_IOCTL = 0xC0086400
"""_IOWR(100, 0, char *) with pointers of 8 bytes: the property call of /dev/vcio."""
GET_GENCMD_RESULT = 0x00030080
MAX_TEXT_BYTES = 1024
_HEAD = struct.Struct("=6I")
"""Size, request, tag, size of the value, size of the answer, error."""

Ioctl = Callable[[int, int, bytearray], object]


def parse_channels(text: str) -> dict[str, float]:
    """Channel → volts or amperes: ` VDD_CORE_A current(7)=1.2513A` → {"VDD_CORE_A": 1.2513}."""
    found = re.findall(r"^\s*(\w+_[AV]) \w+\(\d+\)=(-?[\d.]+)[AV]\s*$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def rail_names(channels: dict[str, float]) -> tuple[str, ...]:
    """Rails with a current and a voltage, in the order they came."""
    names = (name[:-2] for name in channels if name.endswith("_A"))
    return tuple(name for name in names if f"{name}_V" in channels)


class Mailbox:
    """Commands to the VideoCore firmware without a process for each."""

    def __init__(self, path: Path, ioctl: Ioctl = fcntl.ioctl) -> None:
        """OSError where the device is not there or not open to this user."""
        self._file = os.open(path, os.O_RDONLY)
        self._ioctl = ioctl

    def __call__(self, command: str) -> str:
        """What vcgencmd would print; OSError where the firmware refuses."""
        text = command.encode("ascii").ljust(MAX_TEXT_BYTES, b"\0")
        size = _HEAD.size + MAX_TEXT_BYTES + 4
        head = _HEAD.pack(size, 0, GET_GENCMD_RESULT, MAX_TEXT_BYTES, 0, 0)
        message = bytearray(head + text + bytes(4))
        self._ioctl(self._file, MAILBOX_IOCTL, message)
        error = _HEAD.unpack_from(message)[-1]
        if error:
            raise OSError(f"the firmware answered {command} with error {error}")
        answer = bytes(message[_HEAD.size : _HEAD.size + MAX_TEXT_BYTES])
        return answer.partition(b"\0")[0].decode("ascii", errors="replace")

    def close(self) -> None:
        """Close the device."""
        os.close(self._file)


class PmicMeter:
    """Sum of volts × amperes over the rails."""

    def __init__(self, ask: Callable[[str], str], wall: WallFit | None = None) -> None:
        """ask: gives the firmware's answer to a command, such as a `Mailbox`; OSError if it fails."""
        self._ask = ask
        self._facts = MeterFacts(
            name="pmic",
            kind="measured",
            point="rails",
            covers="output rails of the power chip: cores, DRAM, 3.3 V, Wi-Fi; not USB, HATs, fan, "
            "nor the losses of the converters",
            unit="w",
            period_s=0.1,
            wall=wall,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        channels = parse_channels(self._ask(READ_ADC))
        rails = rail_names(channels)
        if not rails:
            raise OSError("the power chip gives no reading")
        return sum(channels[f"{rail}_A"] * channels[f"{rail}_V"] for rail in rails)

    def close(self) -> None:
        if isinstance(self._ask, Mailbox):
            self._ask.close()
