"""When which byte arrives: an emulated link on a clock that others keep.

`Link(model, seed).open(now_s)` gives a connection with a stream up and one down;
`stream.send(now_s, n)` says when these n bytes arrive at the other end. Times that are passed in
never fall, per link. The same seed and the same calls give the same arrivals.

Headers are billed as in `benchmarks.overhead`: 52 bytes for every 1,448 of payload.

A lost packet arrives after a wait that depends on what tells the sender (RFC 8985): 5/4 of a round
trip if later packets of the same write are acknowledged, two round trips if it is the last, and
0.2 s more if it is alone; twice as long each time the repeat is lost too. All that follows it on
the connection waits with it, and the repeat takes its share of the rate. Bursts of losses run over
the packets of a direction in the order they are sent, whichever connection they belong to; a repeat
comes so much later that it finds the link as any packet does.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from benchmarks.link.settings import Direction, LinkModel

HEADER_BYTES = 52
"""IPv4, and TCP with time stamps."""
SEGMENT_BYTES = 1448
INITIAL_WINDOW = 10
"""Packets (RFC 6928)."""
MIN_TIMEOUT_S = 0.2
"""Linux's shortest retransmission timeout."""
BURST_S = 0.05
"""A burst that lasts longer than this draws a new delay."""
MAX_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """So many bytes of payload are at the other end at that time."""

    time_s: float
    num_bytes: int


@dataclass(slots=True)
class Bill:
    """What one direction has carried."""

    payload_bytes: int = 0
    wire_bytes: int = 0
    """With headers and repeats."""
    packets: int = 0
    """Without repeats."""
    repeats: int = 0
    busy_s: float = 0.0
    """Time spent sending, outages included."""


class Radio:
    """Sleeps after a silence; the packet that wakes it, and all others, wait until it is up."""

    def __init__(self, tail_s: float | None, promotion_s: float) -> None:
        self.wake_ups = 0
        self._tail_s = tail_s
        self._promotion_s = promotion_s
        self._up_s = -math.inf
        """When it is (or will be) up, or was used last."""

    def ready_s(self, now_s: float) -> float:
        """When a packet that comes now may go."""
        if self._tail_s is None:
            return now_s
        if now_s > self._up_s + self._tail_s:
            self.wake_ups += 1
            self._up_s = now_s + self._promotion_s
        self._up_s = max(self._up_s, now_s)
        return self._up_s


class Pipe:
    """One way of the link, shared by all connections: a queue, a transmitter, a delay."""

    def __init__(self, settings: Direction, rng: random.Random) -> None:
        self.settings = settings
        self.bill = Bill()
        self._rng = rng
        self._free_s = -math.inf
        """When the transmitter will have sent all that is queued."""
        self._queue: deque[tuple[float, int]] = deque()
        """(time it has left, bytes) of packets that wait."""
        self._queued_bytes = 0
        self._burst_until_s = -math.inf
        self._jitter_s = 0.0
        self._losing = False

    def transmit(self, ready_s: float, num_bytes: int, num_repeats: int) -> float:
        """Queue a packet; when it leaves the transmitter."""
        wire_bytes = (num_bytes + HEADER_BYTES) * (1 + num_repeats)
        start_s = max(ready_s, self._free_s)
        self._free_s = self.settings.capacity.finish_s(start_s, wire_bytes)
        self._queue.append((self._free_s, wire_bytes))
        self._queued_bytes += wire_bytes
        bill = self.bill
        bill.payload_bytes += num_bytes
        bill.wire_bytes += wire_bytes
        bill.packets += 1
        bill.repeats += num_repeats
        bill.busy_s += self._free_s - start_s
        return self._free_s

    def has_room_s(self, now_s: float) -> float:
        """From when on there is room in the queue; `now_s` if there is."""
        while self._queue and self._queue[0][0] <= now_s:
            self._queued_bytes -= self._queue.popleft()[1]
        left = self._queued_bytes
        for leaves_s, num_bytes in self._queue:
            if left < self.settings.queue_bytes:
                break
            left -= num_bytes
            now_s = leaves_s
        return now_s

    def delay_s(self, ready_s: float) -> float:
        """Propagation of a packet, with the jitter of its burst."""
        settings = self.settings
        if not settings.jitter_s:
            return settings.delay_s
        # A packet that comes while others are being sent belongs to their burst.
        if ready_s > self._free_s or ready_s > self._burst_until_s:
            draw = self._rng.gauss(0.0, settings.jitter_s)
            self._jitter_s = max(-3 * settings.jitter_s, min(3 * settings.jitter_s, draw))
            self._burst_until_s = ready_s + BURST_S
        return max(0.0, settings.delay_s + self._jitter_s)

    def losses(self) -> int:
        """How often the next packet is lost before it arrives."""
        ratio = self.settings.loss_ratio
        if not ratio or not self._loses(ratio):
            return 0
        repeats = 1
        while repeats < MAX_REPEATS and self._rng.random() < ratio:
            repeats += 1
        return repeats

    def _loses(self, ratio: float) -> bool:
        """A step, once a packet, of a chain with this share of losses and their mean length."""
        burst = self.settings.loss_burst
        if burst == 1:
            return self._rng.random() < ratio
        leave = 1 / burst
        chance = 1 - leave if self._losing else min(1.0, leave * ratio / (1 - ratio))
        self._losing = self._rng.random() < chance
        return self._losing


@dataclass(slots=True)
class Window:
    """TCP's slow start: packets in flight are limited, and each one acknowledged lets two go."""

    rtt_s: float
    size: int = INITIAL_WINDOW
    _acks_s: deque[float] = field(default_factory=deque)
    _peak: int = 0
    """Most packets in flight since none was."""
    _last_s: float = -math.inf

    def ready_s(self, now_s: float) -> float:
        """When the window lets one more packet go."""
        while self._acks_s and (self._acks_s[0] <= now_s or len(self._acks_s) >= self.size):
            now_s = max(now_s, self._acks_s.popleft())
            if self.size < 2 * self._peak:  # a window that is not used does not grow
                self.size += 1
        if not self._acks_s:
            self._peak = 0
            if now_s - self._last_s > self.rtt_s + MIN_TIMEOUT_S:
                self.size = INITIAL_WINDOW  # RFC 2861: forgotten after a silence
        return now_s

    def sent(self, now_s: float, ack_s: float) -> None:
        """A packet went; its acknowledgement will be there at `ack_s`."""
        self._acks_s.append(ack_s)
        self._peak = max(self._peak, len(self._acks_s))
        self._last_s = now_s


class Stream:
    """One way of one connection: bytes arrive in the order in which they were sent."""

    def __init__(self, pipe: Pipe, link: Link, opened_s: float) -> None:
        self.pipe = pipe
        self._radio = link.radio
        self._rtt_s = link.model.rtt_s
        self._window = Window(self._rtt_s) if link.model.slow_start else None
        self._opened_s = opened_s
        self._last_s = -math.inf

    def send(self, now_s: float, num_bytes: int) -> list[Arrival]:
        """Arrivals of these bytes, packet by packet; of the header alone if there are none."""
        ready_s = max(self._radio.ready_s(now_s), self._opened_s)
        arrivals = []
        num_packets = max(1, -(-num_bytes // SEGMENT_BYTES))
        for number in range(num_packets):
            size = min(SEGMENT_BYTES, num_bytes - number * SEGMENT_BYTES)
            is_last = number == num_packets - 1
            time_s = self._packet(ready_s, size, is_last=is_last, alone=num_packets == 1)
            arrivals.append(Arrival(time_s, size))
        return arrivals

    def _packet(self, ready_s: float, num_bytes: int, *, is_last: bool, alone: bool) -> float:
        if self._window is not None:
            ready_s = self._window.ready_s(ready_s)
        delay_s = self.pipe.delay_s(ready_s)
        repeats = self.pipe.losses()
        left_s = self.pipe.transmit(ready_s, num_bytes, repeats)
        wait_s = (2.0 if is_last else 1.25) * self._rtt_s + (MIN_TIMEOUT_S if alone else 0.0)
        arrival_s = left_s + delay_s + wait_s * (2**repeats - 1)
        self._last_s = max(self._last_s, arrival_s)
        if self._window is not None:
            back_s = self._rtt_s - self.pipe.settings.delay_s
            self._window.sent(ready_s, self._last_s + back_s)
        return self._last_s


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP connection over the link."""

    up: Stream
    down: Stream


class Link:
    """The link of one device: both pipes, its radio, and connections over them."""

    def __init__(self, model: LinkModel, seed: int) -> None:
        self.model = model
        self.radio = Radio(model.tail_s, model.promotion_s)
        self.up = Pipe(model.up, _rng(seed, "up"))
        self.down = Pipe(model.down, _rng(seed, "down"))

    def open(self, now_s: float) -> Connection:
        """A new connection; its handshake, a round trip, goes before the first byte, not billed."""
        opened_s = self.radio.ready_s(now_s) + self.model.rtt_s
        return Connection(Stream(self.up, self, opened_s), Stream(self.down, self, opened_s))


def _rng(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed} {name}")  # noqa: S311 - the weather on a link is no secret
