"""What one generation's clock readings amount to, and which stored ones are believed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.measured import Handshake, Measured, RoundTimes, sampling_label
from device_runtime.protocol.sampling import Sampling
from device_runtime.turn import Counts

MEASURED = Measured(
    scheme="dssd-thinned", sampling="T=0.8 k=0 p=1 m=0", accepted=80, rejected=20, more_requests=1,
    rejected_bytes=40.0, draft_s=0.02, round_s=0.1, handshake_s=0.05, hello_bytes=30,
    welcome_bytes=120, up_bytes=30.0, down_bytes=25.0, up_s_per_byte=1e-5, down_s_per_byte=None,
)  # fmt: skip


HELLO, WELCOME, DELAY_S = 30, 120, 0.05


def handshake_on(up_s: float, down_s: float) -> Handshake:
    return Handshake(DELAY_S + HELLO * up_s + WELCOME * down_s, HELLO, WELCOME)


HANDSHAKE = handshake_on(1e-4, 3e-4)


def times_on(up_s: float, down_s: float, fixed_s: float = 0.08) -> RoundTimes:
    """20 rounds on a link of these seconds per byte, every other one with a rejection."""
    times = RoundTimes()
    times.began(DELAY_S + 400 * up_s, 400)
    for i in range(20):
        down = 40 + i % 3 if i % 2 else 10
        times.drafted(0.06, 3)
        times.judged(fixed_s + 30 * up_s + down * down_s, 30, down, rejected=bool(i % 2))
    return times


def test_rates_are_found_again() -> None:
    times, handshake = times_on(up_s=1e-4, down_s=3e-4), handshake_on(1e-4, 3e-4)
    assert times.up_s_per_byte(handshake) == pytest.approx(1e-4, rel=0.02)
    assert handshake.delay_s(1e-4, 3e-4) == pytest.approx(DELAY_S)
    assert times.down_s_per_byte() == pytest.approx(3e-4, rel=0.02)


def test_one_lost_packet_changes_no_rate() -> None:
    times = times_on(up_s=1e-4, down_s=3e-4)
    times.judged(60.0, 30, 41, rejected=True)
    assert times.down_s_per_byte() == pytest.approx(3e-4, rel=0.05)


def test_answers_of_one_size_tell_no_rate() -> None:
    times = RoundTimes()
    for i in range(20):
        times.judged(0.1 + i % 2, 20, 10, rejected=bool(i % 2))
    assert times.down_s_per_byte() is None


@pytest.mark.parametrize(("num_large", "is_told"), [(0, False), (1, False), (2, True)])
def test_too_few_answers_of_another_size_tell_no_rate(num_large: int, is_told: bool) -> None:
    times = RoundTimes()
    for i in range(20):
        times.judged(0.1, 20, 60 if i < num_large else 10, rejected=i < num_large)
    assert (times.down_s_per_byte() is not None) is is_told


def test_rejections_of_many_sizes_tell_the_rate_without_any_whole_block() -> None:
    times = RoundTimes()
    for i in range(20):
        down = 30 + 7 * i % 40
        times.judged(0.1 + 3e-4 * down + 1e-4 * (i % 3), 30, down, rejected=True)
    assert times.down_s_per_byte() == pytest.approx(3e-4, rel=0.1)


def test_without_a_round_there_is_no_rate() -> None:
    assert RoundTimes().down_s_per_byte() is None


def test_a_larger_answer_that_came_sooner_is_noise_and_gives_no_negative_rate() -> None:
    assert times_on(up_s=0.0, down_s=-1e-4).down_s_per_byte() == 0.0
    quick = RoundTimes()
    quick.began(0.04, 100)
    assert quick.up_s_per_byte(Handshake(0.05, 30, 120)) == 0.0
    assert Handshake(0.05, 30, 120).delay_s(1.0, 1.0) == 0.0


def test_a_begin_no_larger_than_the_hello_tells_no_rate() -> None:
    times = RoundTimes()
    times.began(0.2, 30)
    assert times.up_s_per_byte(Handshake(0.05, 30, 120)) is None


def test_a_generation_is_summed_up() -> None:
    counts = Counts(accepted=55, rejected=10, more_requests=2)
    measured = times_on(1e-4, 3e-4).measured("coupled", Sampling(top_k=40), counts, HANDSHAKE)
    assert measured is not None
    assert (measured.scheme, measured.sampling) == ("coupled", "T=1 k=40 p=1 m=0")
    assert (measured.accepted, measured.rejected, measured.more_requests) == (55, 10, 2)
    assert measured.draft_s == pytest.approx(0.02)
    assert measured.rejected_bytes == pytest.approx(41)
    assert measured.up_bytes == 30 and measured.down_bytes == pytest.approx(25.5)


def test_padded_messages_tell_no_size_of_a_rejection() -> None:
    measured = times_on(1e-4, 3e-4).measured(
        "coupled", Sampling(), Counts(), HANDSHAKE, padded=True
    )
    assert measured is not None and measured.rejected_bytes is None


def test_without_a_round_there_is_nothing_to_keep() -> None:
    assert RoundTimes().measured("coupled", Sampling(), Counts(), HANDSHAKE) is None


def test_a_first_block_alone_leaves_the_draft_time_open() -> None:
    times = RoundTimes()
    times.judged(0.1, 20, 10, rejected=False)
    times.drafted(0.5, 0)  # a block of none says nothing, either
    measured = times.measured("coupled", Sampling(), Counts(), HANDSHAKE)
    assert measured is not None
    assert measured.draft_s is None and measured.up_s_per_byte is None


def test_labels_tell_laws_apart_and_hold_no_ids() -> None:
    laws = [Sampling(), Sampling(0.8), Sampling(top_k=40), Sampling(top_p=0.9), Sampling(min_p=0.1)]
    assert len({sampling_label(law) for law in laws}) == len(laws)
    assert sampling_label(Sampling(0.0, top_k=7)) == sampling_label(Sampling(0.0)) == "greedy"
    assert sampling_label(Sampling(logit_bias=((123, 4.0),))) == sampling_label(Sampling())


def test_values_survive_json() -> None:
    assert Measured.from_values(json.loads(json.dumps(MEASURED.to_values()))) == MEASURED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accepted", -1), ("accepted", 1.5), ("accepted", True), ("accepted", None),
        ("rejected", 10**30), ("draft_s", -0.1), ("draft_s", float("nan")), ("draft_s", "1"),
        ("round_s", float("inf")), ("handshake_s", None), ("hello_bytes", 0.5), ("up_bytes", None),
        ("rejected_bytes", True), ("scheme", 7), ("scheme", "x" * 65), ("sampling", None),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Measured.from_values({**MEASURED.to_values(), name: value})


def test_missing_and_unknown_keys_are_refused() -> None:
    values = MEASURED.to_values()
    with pytest.raises(ValueError, match="keys"):
        Measured.from_values({**values, "text": "no"})
    del values["draft_s"]
    with pytest.raises(ValueError, match="keys"):
        Measured.from_values(values)


# A drafter opened by another test makes this thread flush subnormal numbers to zero.
floats = st.floats(allow_subnormal=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=2,
)


@given(st.dictionaries(st.sampled_from(list(MEASURED.to_values())), json_values))
def test_anything_else_is_refused_in_one_way(values: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        Measured.from_values({**MEASURED.to_values(), **values})
