"""Recorded links in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.link import trace
from benchmarks.link.capacity import Capacity
from hw_profiles import ProfileError


def test_a_mahimahi_packet_has_left_at_its_millisecond() -> None:
    capacity = Capacity(trace.from_mahimahi("3\n5\n5\n10\n"))
    assert capacity.finish_s(0.0, 1500) == pytest.approx(3e-3)
    assert capacity.finish_s(0.0, 4500) == pytest.approx(5e-3)
    assert capacity.finish_s(0.0, 6000) == pytest.approx(10e-3)
    assert capacity.finish_s(5e-3, 1500) == pytest.approx(10e-3)  # what nobody took is lost
    assert capacity.finish_s(10e-3, 1500) == pytest.approx(13e-3)  # from the start again


def test_small_packets_share_an_opportunity() -> None:
    capacity = Capacity(trace.from_mahimahi("10\n"))
    assert capacity.finish_s(0.0, 750) == pytest.approx(9.5e-3)
    assert capacity.finish_s(9.5e-3, 750) == pytest.approx(10e-3)


def test_the_mean_rate_of_a_mahimahi_trace() -> None:
    lines = "\n".join(str(ms) for ms in range(1, 1001))
    assert trace.from_mahimahi(lines).mean_bps == pytest.approx(12e6)
    assert trace.from_mahimahi("0\n0\n1000\n").mean_bps == pytest.approx(3 * 12e3)


def test_a_csv_rate_holds_until_the_next() -> None:
    capacity = Capacity(trace.from_csv("time_s,rate_bps\n100,8000\n101,16000\n"))
    assert capacity.finish_s(0.0, 3000) == pytest.approx(2.0)
    assert capacity.finish_s(2.0, 1000) == pytest.approx(3.0)
    assert trace.from_csv("time_s,rate_bps\n0,8000\n").mean_bps == 8000


@pytest.mark.parametrize("text", ["", "5\n4\n", "1.5\n", "-1\n", "a\n", "0\n0\nx\n"])
def test_a_broken_mahimahi_trace_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        trace.from_mahimahi(text)


@pytest.mark.parametrize(
    "text",
    ["", "0,1\n", "time_s,rate_bps\n", "time_s,rate_bps\n0\n", "time_s,rate_bps\n0,x\n",
     "time_s,rate_bps\n0,nan\n", "time_s,rate_bps\n1,5\n0,5\n"],
)  # fmt: skip
def test_a_broken_csv_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        trace.from_csv(text)


def test_the_ending_of_a_file_decides_and_errors_name_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time_s,rate_bps\n0,5000\n")
    (tmp_path / "b.up").write_text("1\n2\n")
    assert trace.load(tmp_path / "a.csv").mean_bps == 5000
    assert trace.load(tmp_path / "b.up").mean_bps == pytest.approx(12e6)
    (tmp_path / "c.csv").write_text("x")
    for name in ("c.csv", "missing"):
        with pytest.raises(ProfileError, match=name):
            trace.load(tmp_path / name)
