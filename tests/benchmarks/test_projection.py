"""The projection's arithmetic, and published figures it must agree with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.projection import Board, ProjectionError, Work, check, project, work_of
from benchmarks.record import Record
from hw_profiles import load

BOARD = Board("b", "B", read_bytes_per_s=5e9, idle_w=3.0, active_w=13.0, num_cores=4)
WORK = Work(num_tokens=10, wall_s=2.0, device_s=0.5, busy_s=0.4, radio_j=1.0)


def test_the_devices_part_grows_with_the_bandwidths_and_the_rest_stays() -> None:
    found = project(WORK, BOARD, bandwidth_here=20e9)
    # Four times slower: 0.5 s become 2 s, so the answer takes 3.5 s; 0.4 core-seconds become 1.6.
    assert found.seconds == pytest.approx(0.35)
    assert found.wait_j == pytest.approx(3.0 * 3.5 / 10)
    assert found.compute_j == pytest.approx(10.0 / 4 * 1.6 / 10)
    assert found.radio_j == pytest.approx(0.1)
    assert found.joules == pytest.approx(found.wait_j + found.compute_j + found.radio_j)


def test_work_adds_up_answers() -> None:
    split = Record.of("run", {}, {
        "mode": "split", "token_ids": [1, 2, 3], "wall_s": 1.0, "device_busy_s": 0.1, "rounds": 2,
        "round_draft_s": 0.03, "round_encode_s": 0.01, "round_settle_s": 0.01, "radio_j": 0.5,
        "round_up_s": 0.3,
    })  # fmt: skip
    alone = Record.of("run", {}, {
        "mode": "device", "token_ids": [1, 2], "wall_s": 0.5, "device_busy_s": 0.4, "rounds": 0,
    })  # fmt: skip
    work = work_of([split, alone])
    assert work is not None
    assert work.device_s == pytest.approx(0.1 + 0.5)
    assert work == Work(5, 1.5, work.device_s, 0.5, 0.5)


def test_answers_whose_rounds_were_not_clocked_are_left_out() -> None:
    parts = {"round_draft_s": 0.03, "round_encode_s": 0.01, "round_settle_s": 0.01}
    whole = {
        "mode": "split",
        "token_ids": [1, 2, 3],
        "wall_s": 1.0,
        "device_busy_s": 0.1,
        "rounds": 4,
    }
    clocked = Record.of("run", {}, whole | parts)
    short = Record.of("run", {}, whole | {"rounds": 2})
    silent = Record.of("run", {}, whole | {"rounds": 0})
    streamed = Record.of("run", {}, whole | {"mode": "edge", "rounds": 0})
    assert work_of([clocked, short, silent]) == work_of([clocked])
    assert work_of([short]) is None and work_of([silent]) is None
    alone = work_of([streamed])
    assert alone is not None and alone.device_s == 0


def test_a_board_as_fast_as_this_machine_takes_the_measured_time() -> None:
    same = project(WORK, replace(BOARD, read_bytes_per_s=7e9), bandwidth_here=7e9)
    assert same.seconds == pytest.approx(0.2)


def test_the_pi_5_reaches_the_published_share_of_its_bandwidth() -> None:
    (found,) = check(load("raspberry-pi-5"))
    assert 0.655 <= found.bandwidth_share <= 0.75
    assert found.j_per_token == pytest.approx(2.4, abs=0.05)


@pytest.mark.parametrize("name", ["raspberry-pi-5", "raspberry-pi-4"])
def test_profiles_with_the_numbers_can_be_projected_to(name: str) -> None:
    board = Board.of(load(name))
    assert board.active_w > board.idle_w > 0 and board.num_cores == 4


def test_a_profile_without_the_numbers_says_which() -> None:
    with pytest.raises(ProjectionError, match=r"lacks memory.read_one_core.*power.idle_w"):
        Board.of(load("generic-x86"))
