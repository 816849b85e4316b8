"""Joules of an answer: by a meter that counts, and the radio's by the link's model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.run.answers import Written
from benchmarks.run.joules import Meter, radio_values
from device_runtime.energy.meter import MeterFacts
from device_runtime.energy.recording import Recording
from device_runtime.round_clock import RoundClock
from hw_profiles import load_link


class Watts:
    """A counter that grows by 2 J a second at rest."""

    def __init__(self, kind: Any) -> None:
        self.facts = MeterFacts("fake", kind, "wall", "all", "j", 10.0)
        self.now_s = 0.0
        self.extra_j = 0.0

    def read(self) -> float:
        return 2.0 * self.now_s + self.extra_j

    def close(self) -> None:
        pass


class Transcript:
    started_s, wall_s = 10.0, 4.0
    times_s = (11.0, 12.0, 14.0)


class Answer:
    transcript = Transcript()
    round_clocks = (
        RoundClock(10.0, 10.1, 10.1, [(10.2, 11.0)]), RoundClock(11.0, 11.1, 11.1, [(11.2, 12.0)]),
    )  # fmt: skip


BILLS = {"up": {"wire_bytes": 600, "packets": 3}, "down": {"wire_bytes": 1000, "packets": 2}}
WRITTEN: Any = Written(Answer(), 0.1, 0.5, BILLS, ())  # type: ignore[arg-type]


def metered(kind: str) -> Meter:
    """At rest until 10 s, then an answer of 4 s that takes 5 J beyond that."""
    source = Watts(kind)
    recording = Recording(source, clock=lambda: source.now_s)
    for now_s in (0.0, 10.0, 14.0):
        source.now_s = now_s
        source.extra_j = 5.0 if now_s > 10 else 0.0
        recording.read()
    return Meter(recording, idle_w=2.0)


def test_net_joules_are_those_beyond_the_machine_at_rest() -> None:
    values = metered("measured").values(WRITTEN)
    assert values["gross_j"] == pytest.approx(13)
    assert values["net_j"] == pytest.approx(5)
    assert (values["energy_kind"], values["energy_point"]) == ("measured", "wall")
    assert "wait_j" not in values


def test_a_model_tells_waiting_from_computing() -> None:
    values = metered("modelled").values(WRITTEN)
    assert (values["wait_j"], values["compute_j"]) == (pytest.approx(8), pytest.approx(5))


def test_the_radio_pays_for_bits_and_for_its_tail() -> None:
    lte = load_link("lte")
    assert lte.radio is not None and lte.radio.up_j_per_bit and lte.radio.down_j_per_bit
    assert lte.radio.tail_w and lte.radio.tail_s
    # All bursts lie within one tail of each other: from the first one up to the last one's tail.
    awake_j = lte.radio.tail_w.value * (12.0 - 10.0 + lte.radio.tail_s.value)
    bits_j = 8 * (600 * lte.radio.up_j_per_bit.value + 1000 * lte.radio.down_j_per_bit.value)
    found = radio_values(WRITTEN, lte)["radio_j"]
    assert found == pytest.approx(awake_j + bits_j, rel=1e-3)


def test_no_radio_and_no_link_cost_nothing() -> None:
    assert radio_values(WRITTEN, load_link("ethernet")) == {}
    assert radio_values(replace(WRITTEN, bills=None), load_link("lte")) == {}
