"""RAPL: the energy counters of x86 processors (powercap in sysfs; Intel and AMD)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_runtime.doctor_probe import read_number, read_text
from device_runtime.energy.meter import MeterError, MeterFacts

READ_PERIOD_S = 0.1
"""A counter turns over in minutes at the soonest; this often, so that windows end on readings."""


@dataclass(slots=True)
class _Package:
    """One counter: µJ that begin again after `range_uj`."""

    file: Path
    range_uj: float
    last_uj: float
    turns_uj: float = 0.0

    def joules(self) -> float:
        now_uj = read_number(self.file)
        if now_uj is None:
            raise OSError(f"{self.file} gives no reading")
        if now_uj < self.last_uj:
            self.turns_uj += self.range_uj
        self.last_uj = now_uj
        return (self.turns_uj + now_uj) / 1e6


class RaplMeter:
    """Sum over the processor packages: their parts (core, uncore, dram) and psys are not added."""

    def __init__(self, folders: list[Path]) -> None:
        """folders: intel-rapl:N; MeterError if none of them is a package that can be read."""
        self._packages = []
        for folder in folders:
            if not (read_text(folder / "name") or "").startswith("package"):
                continue
            now_uj = read_number(folder / "energy_uj")
            range_uj = read_number(folder / "max_energy_range_uj")
            if now_uj is None or range_uj is None:
                raise MeterError(
                    f"only root may read {folder}/energy_uj: run it as root, or give your group "
                    "the right with a udev rule"
                )
            self._packages.append(_Package(folder / "energy_uj", range_uj, now_uj))
        if not self._packages:
            raise MeterError("RAPL shows no processor package here")
        self._facts = MeterFacts(
            name="rapl",
            kind="measured",
            point="cpu_package",
            covers=f"{len(self._packages)} processor package(s) with cores and caches; not memory, "
            "disks, fans, nor the supply",
            unit="j",
            period_s=READ_PERIOD_S,
            refresh_s=1e-3,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        return sum(package.joules() for package in self._packages)

    def close(self) -> None:
        pass
