"""Meter chips of the INA family through the kernel's hwmon drivers.

INA3221 (documents of the kernel: hwmon/ina3221): three channels, `inN_input` in mV and `currN_input`
in mA; `in7_input` and `curr4_input` are sums of other things and are left alone. INA219, 226, 231,
238 (hwmon/ina2xx, hwmon/ina238): `power1_input` in µW; INA228 also `energy1_input` in µJ, a counter
in the chip itself, which misses nothing between two readings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_runtime.doctor_probe import read_number, read_text
from device_runtime.energy.meter import MeterError, MeterFacts, WallFit

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that hold all others, on boards without a profile."""
HOLDERS = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
"""Rail → the one whose reading holds it already (AGX Orin; sources: its profile)."""
SAMPLE_PERIOD_S = 0.1
"""A register takes about half a millisecond over I2C; three rails have six."""


@dataclass(frozen=True, slots=True)
class Rail:
    """One channel of a chip."""

    label: str
    volts: Path
    amps: Path

    def watts(self) -> float:
        """Power of the channel now; OSError where the chip does not answer."""
        volts, amps = read_number(self.volts), read_number(self.amps)
        if volts is None or amps is None:
            raise OSError(f"{self.volts.parent} gives no reading")
        return volts * amps / 1e6  # mV · mA


def rails_of(folders: list[Path]) -> list[Rail]:
    """Channels in use of these INA3221 chips; one without a label, or `NC`, is not connected."""
    rails = []
    for folder in folders:
        for channel in (1, 2, 3):
            label = read_text(folder / f"in{channel}_label")
            enabled = read_text(folder / f"in{channel}_enable") != "0"
            amps = folder / f"curr{channel}_input"
            if label and label != "NC" and enabled and amps.exists():
                rails.append(Rail(label, folder / f"in{channel}_input", amps))
    return rails


def _outer(rails: list[Rail]) -> list[Rail]:
    """Those that no other one of them holds."""
    labels = {rail.label for rail in rails}
    return [rail for rail in rails if HOLDERS.get(rail.label) not in labels]


class Ina3221Meter:
    """A Jetson's rails: the total where there is one, else their sum; nothing is counted twice."""

    def __init__(
        self, folders: list[Path], total_rail: str | None = None, wall: WallFit | None = None
    ) -> None:
        """total_rail: as the board's profile names it; MeterError without a connected channel."""
        rails = rails_of(folders)
        names = (total_rail, *TOTAL_RAILS)
        total = next((r for name in names for r in rails if r.label == name), None)
        self._rails = _outer(rails) if total is None else [total]
        if not rails:
            raise MeterError("the INA3221 has no channel that is connected")
        labels = ", ".join(rail.label for rail in self._rails)
        self._facts = MeterFacts(
            name="ina3221",
            kind="measured",
            point="rails" if total is None else "module_input",
            covers=f"the sum of {labels}; less than the supply delivers"
            if total is None
            else f"{labels}: the module without its carrier board",
            unit="w",
            period_s=SAMPLE_PERIOD_S,
            wall=wall,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        return sum(rail.watts() for rail in self._rails)

    def close(self) -> None:
        pass


class InaMeter:
    """A chip with one channel in a board's supply: wired in by somebody, or part of the board."""

    def __init__(self, folder: Path) -> None:
        """folder: of hwmon."""
        chip = read_text(folder / "name") or "ina"
        energy = folder / "energy1_input"
        self._is_counter = energy.exists()
        self._file = energy if self._is_counter else folder / "power1_input"
        label = read_text(folder / "power1_label")
        self._facts = MeterFacts(
            name=chip,
            kind="measured",
            point="board_input",
            covers=f"what flows through its shunt{f', {label}' if label else ''}",
            unit="j" if self._is_counter else "w",
            period_s=SAMPLE_PERIOD_S if self._is_counter else SAMPLE_PERIOD_S / 2,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        micro = read_number(self._file)
        if micro is None:
            raise OSError(f"{self._file} gives no reading")
        return micro / 1e6

    def close(self) -> None:
        pass
