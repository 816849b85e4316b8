"""Joules of an answer: by models, the board's and the radio's; no meter of the machine is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.run import joules
from benchmarks.run.answers import Written
from benchmarks.run.joules import board_values, modelled_board, radio_values
from device_runtime.energy.find import KINDS
from device_runtime.energy.meter import MeterError
from device_runtime.protocol.errors import ConfigError
from device_runtime.round_clock import RoundClock
from hw_profiles import load, load_link


class Transcript:
    started_s, wall_s = 10.0, 4.0
    times_s = (11.0, 12.0, 14.0)


class Answer:
    transcript = Transcript()
    round_clocks = (
        RoundClock(10.0, 10.1, 10.1, [(10.2, 11.0)]), RoundClock(11.0, 11.1, 11.1, [(11.2, 12.0)]),
    )  # fmt: skip


BILLS = {
    "up": {"wire_bytes": 600, "packets": 3}, "down": {"wire_bytes": 1000, "packets": 2},
    "late": {"deliveries": 5, "sum_s": 0.01, "max_s": 0.009, "over_1ms": 1},
}  # fmt: skip
WRITTEN: Any = Written(Answer(), 0.1, 0.5, BILLS, (), Transcript.times_s)  # type: ignore[arg-type]


def test_a_model_tells_waiting_from_computing() -> None:
    board = load("raspberry-pi-4")
    idle, active = board.power.idle_w, board.power.active_w
    assert idle and active and board.num_cores == 4
    values = board_values(board, WRITTEN)
    assert values["wait_j"] == pytest.approx(idle.value * 4.0)
    assert values["compute_j"] == pytest.approx((active.value - idle.value) / 4 * 0.5)
    assert values["gross_j"] == pytest.approx(values["wait_j"] + values["compute_j"])
    assert (values["energy_kind"], values["net_j"]) == ("modelled", values["compute_j"])


@pytest.mark.parametrize("meter", sorted({*KINDS} - {"auto", "modelled"}))
def test_a_meter_that_sees_the_edge_is_refused(meter: str) -> None:
    with pytest.raises(ConfigError, match=f"--energy {meter} would count edges .* `tandem run"):
        modelled_board(meter, None)


def test_auto_models_and_does_without_where_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pi = load("raspberry-pi-5")
    assert modelled_board("auto", pi.name) == pi
    assert modelled_board("none", pi.name) is None
    monkeypatch.setattr(joules, "find_profile", lambda _: None)
    assert modelled_board("auto", None) is None
    with pytest.raises(MeterError, match="name one with --profile"):
        modelled_board("modelled", None)
    monkeypatch.setattr(joules, "find_profile", lambda _: load("generic-x86"))
    assert modelled_board("auto", None) is None
    with pytest.raises(MeterError, match="lacks idle_w"):
        modelled_board("auto", "generic-x86")


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


def test_a_stream_s_tokens_that_come_together_are_one_frame() -> None:
    """An edge that drafts sends a few tokens a message: as many packets as messages came."""
    wifi = load_link("wifi5-home")
    assert wifi.radio is not None and wifi.radio.frame_j is not None
    answer: Any = Answer()
    answer.round_clocks = ()
    answer.transcript = Transcript()
    answer.transcript.times_s = (11.0, 11.0, 11.0, 12.0, 12.0, 12.0)
    bills = {
        **BILLS,
        "up": {"wire_bytes": 0, "packets": 1},
        "down": {"wire_bytes": 0, "packets": 2},
    }
    streamed = replace(WRITTEN, answer=answer, bills=bills, arrivals_s=(11.0, 12.0))
    assert radio_values(streamed, wifi)["radio_j"] == pytest.approx(3 * wifi.radio.frame_j.value)
