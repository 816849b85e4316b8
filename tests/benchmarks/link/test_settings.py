"""Link profiles as numbers of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.link.capacity import Outage, Rates
from benchmarks.link.settings import Extras, from_profile
from hw_profiles import ProfileError, link_names, load_link


@pytest.mark.parametrize("name", link_names())
def test_every_profile_has_a_model(name: str) -> None:
    profile = load_link(name)
    model = from_profile(profile)
    assert model.up.capacity.rates.mean_bps == pytest.approx(profile.up_bps.value)
    assert model.down.capacity.rates.mean_bps == pytest.approx(profile.down_bps.value)
    assert model.rtt_s == pytest.approx(profile.rtt_s.value)
    assert not model.slow_start


def test_what_a_profile_says_of_jitter_and_radio_is_emulated() -> None:
    starlink, lte = from_profile(load_link("starlink")), from_profile(load_link("lte"))
    both_s = (starlink.up.jitter_s**2 + starlink.down.jitter_s**2) ** 0.5
    assert both_s == pytest.approx(9.2e-3)
    assert (lte.tail_s, lte.promotion_s) == (10.5, 1.05)
    awake = from_profile(load_link("lte"), Extras(radio_sleeps=False))
    assert awake.tail_s is None
    assert from_profile(load_link("wifi5-home")).tail_s is None


def test_extras_replace_what_the_profile_says() -> None:
    extras = Extras(
        up_rates=Rates.constant(5e6), outages=(Outage(1, 1),), queue_bytes=9000, slow_start=True
    )
    model = from_profile(load_link("lte"), extras)
    assert model.up.capacity.rates.mean_bps == 5e6
    assert model.down.capacity.rates.mean_bps == 117e6
    assert model.up.capacity.outages == model.down.capacity.outages == extras.outages
    assert (model.up.queue_bytes, model.down.queue_bytes, model.slow_start) == (9000, 9000, True)
    assert from_profile(load_link("lte"), Extras(near=True)).rtt_s == pytest.approx(22e-3)
    assert from_profile(load_link("lte"), Extras(rtt_s=0.0)).rtt_s == 0.0


def test_the_queue_holds_a_tenth_of_a_second_and_at_least_64_kib() -> None:
    model = from_profile(load_link("papers-20ms-100mbps-up10"))
    assert (model.up.queue_bytes, model.down.queue_bytes) == (125_000, 1_250_000)
    assert from_profile(load_link("nb-iot")).up.queue_bytes == 1 << 16


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ProfileError, match="nearby"):
        from_profile(load_link("wifi5-home"), Extras(near=True))
    good = from_profile(load_link("ethernet")).up
    bad: list[dict[str, Any]] = [
        {"delay_s": -1.0}, {"jitter_s": -1.0}, {"queue_bytes": 0}, {"loss_ratio": 1.0},
        {"loss_burst": 0.5},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises(ProfileError):
            replace(good, **change)
