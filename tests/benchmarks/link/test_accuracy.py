"""`tandem bench link`: the verdict, and one small run of the real thing."""

from __future__ import annotations

import json

import pytest

from benchmarks.link import accuracy
from benchmarks.link.accuracy import Accuracy, Delay, Throughput, measure
from benchmarks.link.accuracy_cli import to_json, to_text

GOOD_DELAY = Delay(0.02, "up", 0.010, 0.0109, 0.012, 1e-5)
GOOD_RATE = Throughput("down", 10e6, 9.75e6)


@pytest.mark.parametrize(
    ("delay", "rate", "ok"),
    [
        (GOOD_DELAY, GOOD_RATE, True),
        (Delay(0.02, "up", 0.010, 0.0112, 0.012, 1e-5), GOOD_RATE, False),
        (Delay(0.02, "up", 0.010, 0.0088, 0.009, 1e-5), GOOD_RATE, False),
        (GOOD_DELAY, Throughput("down", 10e6, 9.6e6), False),
        (GOOD_DELAY, Throughput("down", 10e6, 10.4e6), False),
    ],
)
def test_the_verdict_is_1_ms_and_3_percent(delay: Delay, rate: Throughput, ok: bool) -> None:
    both = Accuracy((delay,), (rate,))
    assert both.ok is ok
    assert json.loads(to_json(both))["ok"] is ok
    assert ("not within" in to_text(both)) is not ok


def test_a_small_run_measures_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "RTTS_S", (0.01,))
    monkeypatch.setattr(accuracy, "RATES_BPS", (20e6,))
    steps = []
    got = measure(10, 0.05, lambda: steps.append(1))
    assert len(steps) == 2
    assert [delay.way for delay in got.delays] == ["up", "down"]
    for delay in got.delays:
        assert delay.median_s >= delay.expected_s  # nothing comes before its time
    for rate in got.rates:
        assert rate.measured_bps > 0
