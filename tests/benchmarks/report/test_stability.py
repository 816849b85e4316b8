"""Doubts come from the data, and only from data that deserve them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.record import Record
from benchmarks.report.cells import cells_of, groups_of
from benchmarks.report.stability import _at_least, doubts
from tests.benchmarks.report.hand_made import answer, at


def said(*parts: Iterator[Record] | Sequence[Record]) -> list[str]:
    records = [record for part in parts for record in part]
    return [str(doubt) for doubt in doubts(groups_of(cells_of(records)))]


def test_steady_repeats_leave_no_doubt() -> None:
    assert said(at(20, spread=1.0)) == []


def test_few_repeats() -> None:
    assert said(at(20, repeats=3))[0].startswith("Every cell has 3 repeats: below five")
    assert said(at(20, repeats=1))[0].startswith("Every cell has 1 repeat: below five")
    (doubt,) = said(at(20), at(20, repeats=4, link="starlink"))
    assert doubt.endswith(": dssd-thinned/4 over starlink at T=1 (4).")


def test_repeats_that_vary() -> None:
    (doubt,) = said(at(20, spread=4.0))
    assert "varies by more than 10 %" in doubt
    assert doubt.endswith("dssd-thinned/4 over lte at T=1 (16%).")


def test_one_repeat_far_off() -> None:
    records = [*at(20, repeats=5), answer(5, wall_s=0.2 + 0.32)]
    assert any("50 % off" in doubt and "(+60%)" in doubt for doubt in said(records))


def test_rounds_whose_parts_do_not_add_up() -> None:
    assert said(at(20, round_wall_s=0.1, round_remainder_s=0.0029)) == []
    (doubt,) = said(at(20, round_wall_s=0.1, round_remainder_s=-0.004))
    assert "more than 3 %" in doubt and doubt.endswith("(-4.0%).")


def test_repeats_with_holes() -> None:
    (doubt,) = said([*at(20), *at(20, repeats=4, prompt="list")])
    assert "different prompts" in doubt and doubt.endswith("(1 to 2 answers).")


def test_other_seeds_in_every_repeat_are_no_hole() -> None:
    assert said([answer(repeat, seed=repeat) for repeat in range(5)]) == []


def test_a_first_repeat_that_is_slow_in_every_arm() -> None:
    def slow_start(arm: str) -> list[Record]:
        return [answer(0, arm=arm, wall_s=0.41), *(answer(r, arm=arm) for r in range(1, 5))]

    arms = [slow_start(f"dssd/{gamma}") for gamma in range(6)]
    (doubt,) = said(*arms)
    assert "warm up longer: lte, T=1 (6 of 6 arms, +5%)" in doubt
    assert said(arms[0]) == []  # one arm in five repeats: as likely as not


def test_long_lists_are_cut() -> None:
    (doubt,) = said(*(at(20, 4.0, arm=f"dssd/{gamma}") for gamma in range(9)))
    assert doubt.endswith("and 5 more.") and doubt.count("over lte") == 4


def test_the_binomial_s_tail() -> None:
    assert round(_at_least(0, 3, 0.2), 12) == 1.0
    assert round(_at_least(3, 3, 0.2), 12) == 0.008
    assert round(_at_least(2, 3, 0.2), 12) == 0.104
