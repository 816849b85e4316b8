"""The parts of a round: each where it belongs, and their sum the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.run.parts import PARTS, acceptance_by_place, message_gaps, round_parts
from device_runtime.round_clock import RoundClock
from edge_server.trace import Answered


def a_round(start_s: float) -> tuple[RoundClock, Answered]:
    """Draft 10, encode 1, wait 2, up 20, judge 3, queue 4, verify 5, down 20, settle 6 ms."""
    clock = RoundClock(start_s, start_s + 0.010, start_s + 0.011)
    sent_s = start_s + 0.013
    received_s = sent_s + 0.020
    job = Answered(1, "round", received_s, 0.004, 0.005, received_s + 0.012)
    clock.exchanges.append((sent_s, job.sent_s + 0.020))
    clock.settle_s = 0.006
    return clock, job


WALL_S = 0.080
"""13 + 20 + 12 + 20 + 6 ms are covered but for 2 before the send and 9 after the settling."""
ROUNDS = [a_round(100 + WALL_S * i) for i in range(5)]
CLOCKS = [clock for clock, _ in ROUNDS]
JOBS = [job for _, job in ROUNDS]


def test_each_part_is_what_its_two_readings_differ_by() -> None:
    parts = round_parts(CLOCKS, JOBS)
    milliseconds = {name: 1e3 * seconds for name, seconds in parts.items()}
    assert milliseconds == pytest.approx({
        "wall": 80, "draft": 10, "encode": 1, "up": 20, "queue": 4, "verify": 5, "judge": 3,
        "down": 20, "settle": 6, "remainder": 11,
    })  # fmt: skip
    assert sum(parts[name] for name in PARTS) == pytest.approx(parts["wall"])


def test_a_request_for_more_draws_adds_to_its_round() -> None:
    clock, job = a_round(100 + WALL_S * 2)
    again = job.sent_s + 0.021
    more = Answered(1, "more", again + 0.001, 0.0, 0.002, again + 0.004)
    clock.exchanges.append((again, again + 0.006))
    clocks = [*CLOCKS[:2], clock, *CLOCKS[3:]]
    parts = round_parts(clocks, [*JOBS, more])
    plain = round_parts(CLOCKS, JOBS)
    # One of the three rounds that count has it.
    assert parts["up"] - plain["up"] == pytest.approx(0.001 / 3)
    assert parts["verify"] - plain["verify"] == pytest.approx(0.002 / 3)
    assert parts["judge"] - plain["judge"] == pytest.approx(0.001 / 3)
    assert parts["down"] - plain["down"] == pytest.approx(0.002 / 3)


def test_first_and_last_round_and_undone_ones_are_left_out() -> None:
    assert round_parts(CLOCKS[:2], JOBS) == {}
    slow_first = replace(CLOCKS[0], start_s=0.0)
    assert round_parts([slow_first, *CLOCKS[1:]], JOBS) == round_parts(CLOCKS, JOBS)
    without = [job for job in JOBS if job is not JOBS[2]]
    assert round_parts(CLOCKS[1:4], without) == {}
    assert round_parts(CLOCKS, without)["wall"] == pytest.approx(WALL_S)


def test_acceptance_is_counted_by_place() -> None:
    clocks = [
        replace(CLOCKS[0], num_judged=judged, num_accepted=accepted)
        for judged, accepted in ((3, 3), (2, 1), (1, 0), (3, 2))
    ]
    assert acceptance_by_place(clocks) == ([4, 3, 2], [3, 2, 1])
    assert acceptance_by_place([]) == ([], [])


def test_gaps_between_messages() -> None:
    assert message_gaps([]) == message_gaps([1.0]) == []
    assert message_gaps([0.0, 0.1, 0.2000004, 0.4]) == [0.1, 0.1, 0.2]
