"""Joules of one answer: the device by its meter, the radio by the link's model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.run.answers import Written
from device_runtime.energy.meter import EnergyMeter
from device_runtime.energy.radio import Burst, radio_energy
from device_runtime.energy.recording import Recording
from hw_profiles import LinkProfile

REST_S = 3.0


@dataclass(slots=True)
class Meter:
    """A meter that is being read, and the power of the machine at rest."""

    recording: Recording
    idle_w: float = 0.0
    drift_w: float = 0.0
    """Largest difference between two looks at the machine at rest."""

    @property
    def source(self) -> EnergyMeter:
        return self.recording.meter

    def rest(self) -> None:
        """Watch the machine at rest for a moment: before the first link, and after each."""
        start_s = self.recording.mark()
        time.sleep(REST_S)
        watts = self.recording.energy(start_s, self.recording.mark()).watts
        if self.idle_w:
            self.drift_w = max(self.drift_w, abs(watts - self.idle_w))
        self.idle_w = watts

    def values(self, written: Written) -> dict[str, Any]:
        """By the keys of `benchmarks.record_keys`."""
        transcript, facts = written.answer.transcript, self.source.facts
        energy = self.recording.energy(
            transcript.started_s, transcript.started_s + transcript.wall_s
        )
        rest_j = self.idle_w * energy.seconds
        values = {
            "energy_kind": facts.kind, "energy_meter": facts.name, "energy_point": facts.point,
            "gross_j": energy.joules, "net_j": energy.joules - rest_j,
        }  # fmt: skip
        if facts.kind == "modelled":
            values |= {"wait_j": rest_j, "compute_j": max(0.0, energy.joules - rest_j)}
        return values


def radio_values(written: Written, link: LinkProfile) -> dict[str, Any]:
    """The radio's joules where the link's profile knows any; its tail counts whole."""
    if link.radio is None or written.bills is None:
        return {}
    transcript = written.answer.transcript
    times = {"up": [transcript.started_s], "down": list(transcript.times_s)}
    for clock in written.answer.round_clocks:
        times["up"] += [sent_s for sent_s, _ in clock.exchanges]
    if written.answer.round_clocks:
        exchanges = (e for clock in written.answer.round_clocks for e in clock.exchanges)
        times["down"] = [answered_s for _, answered_s in exchanges]
    bursts = [
        Burst(
            time_s,
            round(written.bills[way]["wire_bytes"] / len(times[way])),
            max(1, round(written.bills[way]["packets"] / len(times[way]))),
            way == "up",
        )
        for way in times
        for time_s in times[way]
    ]
    bursts.sort(key=lambda burst: burst.time_s)
    return {"radio_j": radio_energy(link, bursts, transcript.wall_s).joules}
