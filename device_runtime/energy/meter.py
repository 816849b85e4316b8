"""What every energy meter offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from device_runtime.protocol.errors import TandemError
from hw_profiles.schema import MeasuringPoint


class MeterError(TandemError):
    """There is no such meter, or it cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class WallFit:
    """A published line from what a sensor sees to what the supply delivers."""

    ratio: float
    offset_w: float

    def joules(self, sensor_j: float, seconds: float) -> float:
        """Energy at the supply."""
        return self.ratio * sensor_j + self.offset_w * seconds


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What a reading means: it goes beside every result."""

    name: str
    kind: Literal["measured", "modelled"]
    point: MeasuringPoint
    covers: str
    """In words: what it sees and what it misses."""
    unit: Literal["w", "j"]
    """Whether `read` gives the power now or an energy that only grows."""
    period_s: float
    """How often to read it."""
    refresh_s: float = 0.0
    """How often the sensor itself has news; the energy of a window is uncertain by that much."""
    wall: WallFit | None = None


class EnergyMeter(Protocol):
    """A sensor or a model. One that is no longer needed is closed."""

    @property
    def facts(self) -> MeterFacts:
        """What its readings mean."""
        ...

    def read(self) -> float:
        """Watts now, or joules since some fixed moment; OSError where it cannot be read now."""
        ...

    def close(self) -> None:
        """Let go of files and libraries."""
        ...
