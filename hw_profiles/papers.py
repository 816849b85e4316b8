"""The emulated links of the published experiments: round trip × downlink × uplink share.

Source: DSSD (arXiv 2507.12000), section 4: round trips of 0, 20 and 50 ms, rates of 10, 50 and
100 Mbit/s. The paper bills no uplink time; the shares 1/3 and 1/10 are what access networks have
(hence `…-up3`, `…-up10`), and 1/1 is the paper's own case.
"""

from __future__ import annotations

from hw_profiles.schema import LinkProfile, Quantity, Source

RTTS_MS = (0, 20, 50)
RATES_MBPS = (10, 50, 100)
UPLINK_DIVISORS = (1, 3, 10)

_SOURCE = Source("arXiv 2507.12000 (DSSD), section 4: settings of its emulated network")


def papers_grid(uplink_divisor: int | None = None) -> tuple[LinkProfile, ...]:
    """All links of the grid, or only those whose uplink is downlink / `uplink_divisor`."""
    divisors = UPLINK_DIVISORS if uplink_divisor is None else (uplink_divisor,)
    return tuple(
        _link(rtt_ms, rate_mbps, divisor)
        for divisor in divisors
        for rtt_ms in RTTS_MS
        for rate_mbps in RATES_MBPS
    )


def _link(rtt_ms: int, rate_mbps: int, divisor: int) -> LinkProfile:
    suffix = "" if divisor == 1 else f"-up{divisor}"
    share = "uplink as fast" if divisor == 1 else f"uplink 1/{divisor} of that"
    return LinkProfile(
        name=f"papers-{rtt_ms}ms-{rate_mbps}mbps{suffix}",
        title=f"DSSD's grid: {rtt_ms} ms, {rate_mbps} Mbit/s, {share}",
        summary="A setting of an emulator, not a measured network: constant rate and delay.",
        confidence="high",
        down_bps=_setting(rate_mbps * 1e6),
        up_bps=_setting(rate_mbps * 1e6 / divisor),
        rtt_s=_setting(rtt_ms / 1e3),
    )


def _setting(value: float) -> Quantity:
    return Quantity(value, "assumption", _SOURCE)
