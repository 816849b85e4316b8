"""Energy of the radio, from a link profile and the packets that crossed: a model, never a reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hw_profiles.schema import LinkProfile, Quantity


@dataclass(frozen=True, slots=True)
class Burst:
    """Packets that crossed together."""

    time_s: float
    wire_bytes: int
    """With headers down to IP."""
    num_packets: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class RadioEnergy:
    """Joules beyond the idle device, by cause. Of a profile's absent numbers each counts as 0."""

    transfer_j: float
    """For the bits (slope of power against rate) or the time on air."""
    packets_j: float
    """For handling packets, whatever their size."""
    awake_j: float
    """For being in the high state, the tail after the last packet included."""
    awake_s: float
    wake_ups: int

    @property
    def joules(self) -> float:
        """All of it."""
        return self.transfer_j + self.packets_j + self.awake_j


def radio_energy(link: LinkProfile, bursts: Iterable[Burst], window_s: float) -> RadioEnergy:
    """The radio's share in a window of `window_s` seconds; times of bursts never fall.

    The high state lasts from a packet until `tail_s` after the last; the tail counts whole, even
    beyond the window: it is this traffic that causes it. A link without a tail is always on.
    """
    radio, bursts = link.radio, list(bursts)
    if radio is None:
        return RadioEnergy(0.0, 0.0, 0.0, 0.0, 0)
    transfer_j = packets_j = air_s = 0.0
    for burst in bursts:
        bits = 8 * burst.wire_bytes
        rate = link.up_bps if burst.is_up else link.down_bps
        on_air_s = bits / rate.value
        per_bit = radio.up_j_per_bit if burst.is_up else radio.down_j_per_bit
        power = radio.tx_w if burst.is_up else radio.rx_w
        transfer_j += _value(per_bit) * bits + _value(power) * on_air_s
        packets_j += _value(radio.frame_j) * burst.num_packets
        air_s += on_air_s
    if radio.tail_s is None:
        return RadioEnergy(transfer_j, packets_j, _value(radio.active_w) * window_s, window_s, 0)
    awake_s, wake_ups = _awake(bursts, radio.tail_s.value)
    air_s = min(air_s, awake_s)
    active_w = _value(radio.active_w or radio.tail_w)
    tail_w = _value(radio.tail_w or radio.active_w)
    awake_j = active_w * air_s + tail_w * (awake_s - air_s)
    return RadioEnergy(transfer_j, packets_j, awake_j, awake_s, wake_ups)


def _value(quantity: Quantity | None) -> float:
    return 0.0 if quantity is None else quantity.value


def _awake(bursts: list[Burst], tail_s: float) -> tuple[float, int]:
    """Seconds in the high state, and how often it was entered."""
    awake_s, wake_ups, until_s = 0.0, 0, float("-inf")
    for burst in bursts:
        wake_ups += burst.time_s > until_s
        awake_s += min(tail_s, burst.time_s + tail_s - until_s)
        until_s = burst.time_s + tail_s
    return awake_s, wake_ups
