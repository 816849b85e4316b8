"""Gross and idle-subtracted joules of an answer, prefill and decode apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from device_runtime.energy.meter import MeterFacts
from device_runtime.energy.recording import Energy, Recording

Window = tuple[float, float]
"""Start and end on the clock of the recording."""
FEW_READINGS = 10
SHARE_OF_NEWS = 0.05


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """One part of an answer."""

    seconds: float
    gross_j: float
    """All that the meter saw; the headline."""
    net_j: float | None
    """Without what the machine takes at rest; None where that was not measured."""
    wall_j: float | None
    """At the supply, by the sensor's published fit."""
    gap_s: float


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """What was measured or modelled, where, and how well."""

    meter: str
    kind: str
    """measured or modelled"""
    point: str
    """Where on the machine (see hw_profiles.schema.MeasuringPoint)."""
    covers: str
    idle_w: float | None
    """Mean of the windows at rest, before and after."""
    idle_drift_w: float | None
    """Largest minus smallest of them."""
    phases: Mapping[str, PhaseEnergy]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def make_report(
    recording: Recording, phases: Mapping[str, Window], idle: Sequence[Window] = ()
) -> EnergyReport:
    """Energy of each window; `idle` are windows in which the machine was at rest."""
    facts = recording.meter.facts
    idle_w = [recording.energy(*window).watts for window in idle]
    mean_w = sum(idle_w) / len(idle_w) if idle_w else None
    energies = {name: recording.energy(*window) for name, window in phases.items()}
    return EnergyReport(
        meter=facts.name,
        kind=facts.kind,
        point=facts.point,
        covers=facts.covers,
        idle_w=mean_w,
        idle_drift_w=max(idle_w) - min(idle_w) if len(idle_w) > 1 else None,
        phases={name: _phase(energy, facts, mean_w) for name, energy in energies.items()},
        warnings=tuple(_warnings(facts, energies, recording.num_failed)),
    )


def _phase(energy: Energy, facts: MeterFacts, idle_w: float | None) -> PhaseEnergy:
    return PhaseEnergy(
        seconds=energy.seconds,
        gross_j=energy.joules,
        net_j=None if idle_w is None else energy.joules - idle_w * energy.seconds,
        wall_j=facts.wall.joules(energy.joules, energy.seconds) if facts.wall else None,
        gap_s=energy.gap_s,
    )


def _warnings(facts: MeterFacts, energies: Mapping[str, Energy], num_failed: int) -> list[str]:
    warnings = []
    if num_failed:
        warnings.append(f"{num_failed} readings of the meter failed")
    for name, energy in energies.items():
        if facts.unit == "w" and energy.num_readings < FEW_READINGS:
            warnings.append(
                f"{name} lasted {energy.seconds:.2g} s and holds {energy.num_readings} readings: "
                "too few; repeat it until it lasts 10 s"
            )
        news_s = max(facts.refresh_s, facts.period_s) if facts.unit == "j" else facts.refresh_s
        if news_s > SHARE_OF_NEWS * energy.seconds:
            warnings.append(
                f"{name} lasted {energy.seconds:.2g} s and the meter has news every "
                f"{news_s:g} s: repeat it until it lasts 10 s"
            )
        if energy.gap_s > 0:
            warnings.append(f"{name} has {energy.gap_s:.2g} s without readings")
    return warnings
