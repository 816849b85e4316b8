"""The link model: order, rate, delay, queue, loss, slow start, radio, and the same by the same seed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.link.capacity import Capacity, Rates
from benchmarks.link.model import HEADER_BYTES, SEGMENT_BYTES, Link, Stream
from benchmarks.link.settings import Direction, LinkModel

RATE_BPS = 8e6
PACKET_S = 1500 * 8 / RATE_BPS

SENDS = st.lists(
    st.tuples(st.sampled_from([0.0, 1e-4, 0.001, 0.013, 0.2]), st.integers(1, 40_000)),
    min_size=1,
    max_size=25,
)


def direction(**changes: float) -> Direction:
    plain = Direction(Capacity(Rates.constant(RATE_BPS)), delay_s=0.01)
    return replace(plain, **changes)  # type: ignore[arg-type]


def stream(way: Direction, *, slow_start: bool = False, seed: int = 0) -> Stream:
    """An uplink whose handshake is long over."""
    return Link(LinkModel(way, direction(), slow_start=slow_start), seed).open(-10.0).up


def times(up: Stream, sends: list[tuple[float, int]]) -> list[tuple[float, float, int]]:
    """(sent, arrived, bytes) of every packet; sends are (pause before, bytes)."""
    now_s, packets = 0.0, []
    for pause_s, num_bytes in sends:
        now_s += pause_s
        packets += [(now_s, a.time_s, a.num_bytes) for a in up.send(now_s, num_bytes)]
    return packets


def test_a_packet_takes_its_sending_and_half_the_round_trip() -> None:
    (arrival,) = stream(direction()).send(0.0, 100)
    assert arrival.time_s == pytest.approx((100 + HEADER_BYTES) * 8 / RATE_BPS + 0.01)


def test_a_message_is_cut_into_packets_with_headers() -> None:
    up = stream(direction())
    arrivals = up.send(0.0, 2 * SEGMENT_BYTES + 1)
    assert [a.num_bytes for a in arrivals] == [SEGMENT_BYTES, SEGMENT_BYTES, 1]
    assert [a.time_s for a in arrivals[:2]] == pytest.approx([PACKET_S + 0.01, 2 * PACKET_S + 0.01])
    bill = up.pipe.bill
    assert bill.payload_bytes == 2 * SEGMENT_BYTES + 1
    assert bill.wire_bytes == bill.payload_bytes + 3 * HEADER_BYTES
    assert bill.packets == 3
    assert bill.busy_s == pytest.approx(bill.wire_bytes * 8 / RATE_BPS)


@settings(max_examples=60, deadline=None)
@given(SENDS, st.sampled_from([0.0, 0.004]), st.sampled_from([0.0, 0.05]), st.booleans())
def test_order_rate_and_delay_hold(
    sends: list[tuple[float, int]], jitter_s: float, loss: float, slow_start: bool
) -> None:
    up = stream(direction(jitter_s=jitter_s, loss_ratio=loss), slow_start=slow_start)
    packets = times(up, sends)
    arrived = [time_s for _, time_s, _ in packets]
    assert sum(n for _, _, n in packets) == sum(n for _, n in sends)
    assert arrived == sorted(arrived)
    least_s = max(0.0, 0.01 - 3 * jitter_s)
    for sent_s, arrived_s, num_bytes in packets:
        sending_s = (num_bytes + HEADER_BYTES) * 8 / RATE_BPS
        assert arrived_s >= sent_s + least_s + sending_s - 1e-9
    # Nothing arrives faster than the rate allows, seen from the first time it could.
    wire_bits, start_s = 0.0, packets[0][0]
    for _, arrived_s, num_bytes in packets:
        wire_bits += 8 * (num_bytes + HEADER_BYTES)
        assert wire_bits <= RATE_BPS * (arrived_s - start_s - least_s) + 1e-3


@settings(max_examples=40, deadline=None)
@given(SENDS)
def test_without_jitter_and_loss_a_link_is_a_queue(sends: list[tuple[float, int]]) -> None:
    free_s = -math.inf
    for sent_s, arrived_s, num_bytes in times(stream(direction()), sends):
        free_s = max(free_s, sent_s) + (num_bytes + HEADER_BYTES) * 8 / RATE_BPS
        assert arrived_s == pytest.approx(free_s + 0.01, abs=1e-9)


def test_the_same_seed_gives_the_same_link_and_another_does_not() -> None:
    way = direction(jitter_s=0.003, loss_ratio=0.1)
    sends = [(0.01, 3000)] * 50
    first, again, other = (times(stream(way, seed=seed), sends) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_both_ways_draw_apart() -> None:
    way = direction(jitter_s=0.003)
    connection = Link(LinkModel(way, way), 5).open(-10.0)
    ups = [connection.up.send(0.1 * i, 100)[0].time_s for i in range(20)]
    downs = [connection.down.send(0.1 * i, 100)[0].time_s for i in range(20)]
    assert ups != downs


def test_jitter_is_drawn_once_a_burst_and_has_its_spread() -> None:
    up = stream(direction(jitter_s=0.002))
    (first, second) = up.send(0.0, 2 * SEGMENT_BYTES)
    assert second.time_s - first.time_s == pytest.approx(PACKET_S)
    delays = [up.send(float(i), 100)[0].time_s - i for i in range(1, 2001)]
    mean = sum(delays) / len(delays)
    spread = math.sqrt(sum((d - mean) ** 2 for d in delays) / len(delays))
    assert mean == pytest.approx(0.01 + 152 * 8 / RATE_BPS, abs=2e-4)
    assert spread == pytest.approx(0.002, rel=0.1)
    plain = 0.01 + 152 * 8 / RATE_BPS
    assert max(abs(d - plain) for d in delays) <= 3 * 0.002 + 1e-9


@pytest.mark.parametrize("burst", [1.0, 4.0])
def test_losses_have_their_share_and_length(burst: float) -> None:
    """Bursts are of neighbours: packets one after the other, here each a message of its own."""
    up = stream(direction(loss_ratio=0.05, loss_burst=burst))
    repeats = []
    for i in range(60_000):
        before = up.pipe.bill.repeats
        up.send(10.0 * i, 100)
        repeats.append(up.pipe.bill.repeats - before)
    lost = [n > 0 for n in repeats]
    assert sum(lost) / len(lost) == pytest.approx(0.05, rel=0.15)
    num_bursts = sum(now and not before for before, now in pairwise([False, *lost]))
    mean_burst = burst if burst > 1 else 1 / 0.95  # by chance, neighbours are lost even so
    assert sum(lost) / num_bursts == pytest.approx(mean_burst, rel=0.15)
    # A repeat is lost as often as any packet, however long the bursts are.
    assert sum(repeats) / sum(lost) == pytest.approx(1 / 0.95, rel=0.03)


def test_a_lost_packet_waits_for_what_tells_the_sender() -> None:
    way = direction(loss_ratio=0.3)
    rtt_s, seen = 0.02, set()
    for seed in range(40):
        up = stream(way, seed=seed)
        (alone,) = up.send(0.0, 100)
        if up.pipe.bill.repeats == 1:
            sending_s = 2 * 152 * 8 / RATE_BPS
            assert alone.time_s == pytest.approx(0.01 + sending_s + 2 * rtt_s + 0.2)
            seen.add("alone")
        up = stream(way, seed=seed)
        first, last = up.send(0.0, 2 * SEGMENT_BYTES)
        if up.pipe.bill.repeats == 1 and first.time_s > 0.02:
            assert first.time_s == pytest.approx(0.01 + 2 * PACKET_S + 1.25 * rtt_s)
            assert last.time_s == first.time_s  # what follows waits with it
            seen.add("first")
        elif up.pipe.bill.repeats == 1:
            assert last.time_s == pytest.approx(0.01 + 3 * PACKET_S + 2 * rtt_s)
            seen.add("last")
    assert seen == {"alone", "first", "last"}


def test_the_queue_tells_when_there_is_room() -> None:
    up = stream(direction(queue_bytes=3000))
    assert up.pipe.has_room_s(0.0) == 0.0
    up.send(0.0, 4 * SEGMENT_BYTES)
    # 6,000 bytes wait; below 3,000 are left when three packets have gone.
    assert up.pipe.has_room_s(0.0) == pytest.approx(3 * PACKET_S)
    later_s = 2.5 * PACKET_S
    assert up.pipe.has_room_s(later_s) == pytest.approx(3 * PACKET_S)
    assert up.pipe.has_room_s(1.0) == 1.0


def test_connections_share_the_queue_but_not_the_order() -> None:
    link = Link(LinkModel(direction(), direction()), 0)
    one, two = link.open(-10.0), link.open(-10.0)
    one.up.send(0.0, 10 * SEGMENT_BYTES)
    (arrival,) = two.up.send(0.0, SEGMENT_BYTES)
    assert arrival.time_s == pytest.approx(11 * PACKET_S + 0.01)
    (down,) = two.down.send(0.0, SEGMENT_BYTES)
    assert down.time_s == pytest.approx(PACKET_S + 0.01)


def test_a_new_connection_costs_a_round_trip() -> None:
    link = Link(LinkModel(direction(), direction()), 0)
    (arrival,) = link.open(5.0).up.send(5.0, 100)
    assert arrival.time_s == pytest.approx(5.0 + 0.02 + 0.01 + 152 * 8 / RATE_BPS)


def test_slow_start_doubles_its_window_every_round_trip() -> None:
    fast = replace(direction(), capacity=Capacity(Rates.constant(1e12)))
    up = Link(LinkModel(fast, fast, slow_start=True), 0).open(-10.0).up
    arrivals = up.send(0.0, 70 * SEGMENT_BYTES)
    trips = [round((a.time_s - 0.01) / 0.02) for a in arrivals]
    assert [trips.count(i) for i in range(4)] == [10, 20, 40, 0]


def test_slow_start_forgets_its_window_after_a_silence_and_keeps_it_before() -> None:
    fast = replace(direction(), capacity=Capacity(Rates.constant(1e12)))
    up = Link(LinkModel(fast, fast, slow_start=True), 0).open(-10.0).up
    up.send(0.0, 30 * SEGMENT_BYTES)
    soon = up.send(0.1, 20 * SEGMENT_BYTES)
    assert soon[-1].time_s == pytest.approx(0.11, abs=1e-5)
    late = up.send(1.0, 20 * SEGMENT_BYTES)
    assert late[-1].time_s == pytest.approx(1.03, abs=1e-5)


def test_a_window_that_is_not_used_does_not_grow() -> None:
    fast = replace(direction(), capacity=Capacity(Rates.constant(1e12)))
    up = Link(LinkModel(fast, fast, slow_start=True), 0).open(-10.0).up
    for i in range(50):
        up.send(0.1 * i, 100)
    assert up.send(5.0, 11 * SEGMENT_BYTES)[-1].time_s == pytest.approx(5.03, abs=1e-5)


def test_a_sleeping_radio_delays_all_that_comes_until_it_is_up() -> None:
    link = Link(LinkModel(direction(), direction(), tail_s=10.0, promotion_s=1.0), 0)
    connection = link.open(0.0)
    first = connection.up.send(0.0, 100)[0].time_s
    assert first == pytest.approx(1.0 + 0.02 + 0.01 + 152 * 8 / RATE_BPS)
    awake = connection.down.send(10.9, 100)[0].time_s
    assert awake == pytest.approx(10.91, abs=1e-3)
    asleep = connection.up.send(21.0, 100)[0].time_s
    assert asleep == pytest.approx(22.01, abs=1e-3)
    meanwhile = connection.down.send(21.5, 100)[0].time_s
    assert meanwhile == pytest.approx(22.01, abs=1e-3)
    assert link.radio.wake_ups == 2
