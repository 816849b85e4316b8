"""Joules of the radio: bits, packets, time on air, the high state and its tail."""

from __future__ import annotations

import pytest

from device_runtime.energy.radio import Burst, radio_energy
from hw_profiles import load_link


def up(time_s: float, wire_bytes: int = 200, num_packets: int = 1) -> Burst:
    return Burst(time_s, wire_bytes, num_packets, is_up=True)


def down(time_s: float, wire_bytes: int = 200) -> Burst:
    return Burst(time_s, wire_bytes, 1, is_up=False)


def test_wifi_costs_air_time_and_packets_and_nothing_at_rest() -> None:
    link = load_link("wifi5-home")
    energy = radio_energy(link, [up(0.0, 25_000, 20), down(0.1, 25_000)], 10.0)
    on_air_s = 25_000 * 8 / 250e6
    assert energy.transfer_j == pytest.approx((0.8066 + 0.063) * on_air_s)
    assert energy.packets_j == pytest.approx(21 * 0.126e-3)
    assert energy.awake_j == 0
    assert energy.joules == pytest.approx(energy.transfer_j + energy.packets_j)


def test_lte_costs_bits_and_a_tail_that_most_of_the_energy_goes_to() -> None:
    energy = radio_energy(load_link("lte"), [up(0.0, 1000), down(0.1, 1000)], 1.0)
    assert energy.transfer_j == pytest.approx(8000 * (76.68e-9 + 11.54e-9))
    assert energy.awake_s == pytest.approx(0.1 + 10.5)
    assert energy.awake_j == pytest.approx(1.06 * 10.6, rel=1e-3)
    assert energy.wake_ups == 1


def test_every_silence_longer_than_the_tail_is_slept_through() -> None:
    energy = radio_energy(load_link("lte"), [up(0.0), up(5.0), up(100.0)], 200.0)
    assert energy.awake_s == pytest.approx(15.5 + 10.5)
    assert energy.wake_ups == 2


def test_a_high_state_without_its_own_tail_power_keeps_its_power() -> None:
    energy = radio_energy(load_link("5g-mmwave"), [up(0.0)], 1.0)
    assert energy.awake_j == pytest.approx(2.4 * 10.5)


def test_a_link_without_tail_is_always_on() -> None:
    energy = radio_energy(load_link("starlink"), [up(1.0)], 60.0)
    assert energy.awake_j == pytest.approx(125 * 60)


def test_a_link_without_radio_costs_nothing_and_neither_does_silence() -> None:
    assert radio_energy(load_link("ethernet"), [up(0.0)], 60.0).joules == 0
    assert radio_energy(load_link("lte"), [], 60.0).joules == 0
