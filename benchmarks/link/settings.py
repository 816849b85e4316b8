"""The numbers of an emulated link: from a profile, with what a profile does not hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.link.capacity import Capacity, Outage, Rates
from hw_profiles import LinkProfile, ProfileError

QUEUE_S = 0.1
MIN_QUEUE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Direction:
    """One way of a link."""

    capacity: Capacity
    delay_s: float
    """From leaving the queue to arriving: half of the round trip."""
    jitter_s: float = 0.0
    """Standard deviation of the delay, one draw per burst, cut off at three of them and at 0 s."""
    loss_ratio: float = 0.0
    """Share of packets that are lost."""
    loss_burst: float = 1.0
    """Mean number of packets lost in a row; 1 for losses that know nothing of each other."""
    queue_bytes: int = MIN_QUEUE_BYTES
    """Bytes that may wait for the link; a sender is held back above that."""

    def __post_init__(self) -> None:
        """ProfileError where a number cannot be."""
        if min(self.delay_s, self.jitter_s) < 0 or self.queue_bytes <= 0:
            raise ProfileError("delay and jitter must be 0 or more, the queue 1 byte or more")
        if not 0 <= self.loss_ratio < 1 or self.loss_burst < 1:
            raise ProfileError("loss must be 0 or more and below 1, its bursts 1 packet or more")


@dataclass(frozen=True, slots=True)
class LinkModel:
    """Both ways of a link, and what they share."""

    up: Direction
    down: Direction
    slow_start: bool = False
    """Whether a connection begins with a window of ten packets, as TCP does."""
    tail_s: float | None = None
    """Silence after which the radio sleeps; None for a link that never does."""
    promotion_s: float = 0.0
    """How long the first packet waits for a sleeping radio."""

    @property
    def rtt_s(self) -> float:
        """Round trip without queues, jitter and the time to send."""
        return self.up.delay_s + self.down.delay_s


@dataclass(frozen=True, slots=True)
class Extras:
    """What a profile does not say and a user may add."""

    up_rates: Rates | None = None
    """A trace or another rate in place of the profile's."""
    down_rates: Rates | None = None
    rtt_s: float | None = None
    """Another round trip than the profile's."""
    outages: tuple[Outage, ...] = field(default=())
    loss_burst: float = 1.0
    queue_bytes: int | None = None
    """None: what the link carries in 0.1 s at its mean rate, at least 64 KiB."""
    slow_start: bool = False
    near: bool = False
    """Take the round trip to a server nearby, where the profile knows one."""
    radio_sleeps: bool = True


def from_profile(profile: LinkProfile, extras: Extras | None = None) -> LinkModel:
    """The model of a profile. Its jitter is that of the round trip: each way has 1/√2 of it."""
    extras = extras or Extras()
    near = profile.rtt_near_s if extras.near else None
    if extras.near and near is None:
        raise ProfileError(f"{profile.name} knows no round trip to a server nearby (rtt_near_s)")
    rtt_s = (near or profile.rtt_s).value if extras.rtt_s is None else extras.rtt_s
    shared = Direction(
        capacity=Capacity(Rates.constant(profile.up_bps.value), extras.outages),
        delay_s=rtt_s / 2,
        jitter_s=profile.jitter_s.value / 2**0.5 if profile.jitter_s else 0.0,
        loss_ratio=profile.loss_ratio.value if profile.loss_ratio else 0.0,
        loss_burst=extras.loss_burst,
    )
    up_rates = extras.up_rates or Rates.constant(profile.up_bps.value)
    down_rates = extras.down_rates or Rates.constant(profile.down_bps.value)
    radio = profile.radio if extras.radio_sleeps else None
    sleeps = radio is not None and radio.tail_s is not None and radio.promotion_s is not None
    return LinkModel(
        up=_with_rates(shared, up_rates, extras),
        down=_with_rates(shared, down_rates, extras),
        slow_start=extras.slow_start,
        tail_s=radio.tail_s.value if sleeps and radio and radio.tail_s else None,
        promotion_s=radio.promotion_s.value if sleeps and radio and radio.promotion_s else 0.0,
    )


def _with_rates(shared: Direction, rates: Rates, extras: Extras) -> Direction:
    queue_bytes = extras.queue_bytes
    if queue_bytes is None:
        queue_bytes = max(MIN_QUEUE_BYTES, int(QUEUE_S * rates.mean_bps / 8))
    return replace(shared, capacity=Capacity(rates, extras.outages), queue_bytes=queue_bytes)
