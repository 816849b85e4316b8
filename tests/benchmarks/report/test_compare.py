"""Two runs against each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.record import Record
from benchmarks.report.compare import Comparison, compare, differences, gaps, table, to_json
from benchmarks.report.compare_cli import fails
from tests.benchmarks.report.hand_made import EDGE, answer, at


def compared(
    before: Iterator[Record], after: Iterator[Record], figure: str = "time_per_token_s"
) -> Comparison:
    (found,) = compare(list(before), list(after), (figure,))
    return found


@pytest.mark.parametrize(
    ("ms_per_token", "spread", "verdict"),
    [(22, 0.5, "slower"), (18, 0.5, "faster"), (22, 1.5, "same"), (20, 0.5, "same")],
)
def test_times_differ_only_where_intervals_do_not_meet(
    ms_per_token: float, spread: float, verdict: str
) -> None:
    found = compared(at(20, 1.0), at(ms_per_token, spread))
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(ms_per_token / 20)


def test_few_repeats_decide_nothing() -> None:
    assert compared(at(20, repeats=4), at(40)).verdict == "too few repeats"
    assert compared(at(20, repeats=4), at(20)).verdict == "too few repeats"


def test_what_is_no_time_is_less_or_more() -> None:
    figure = "wire_bytes_up_per_token"
    assert compared(at(20), at(20, wire_bytes_up=660), figure).verdict == "more"
    assert compared(at(20), at(20, wire_bytes_up=110), figure).verdict == "less"
    assert compared(at(20), at(20), "engine_s_per_token").verdict == "same"


def test_from_nothing_to_something_has_no_ratio_but_is_worse() -> None:
    found = compared(at(20, radio_j=0.0), at(20, radio_j=1.1), "radio_j_per_token")
    assert found.ratio is None and found.is_worse and fails(found, 50)


def test_only_what_is_slower_by_more_fails() -> None:
    slower = compared(at(20, 0.5), at(22, 0.5))
    assert fails(slower, 9) and not fails(slower, 11) and not fails(slower, None)
    assert not fails(compared(at(20, 0.5), at(18, 0.5)), 0)
    assert not fails(compared(at(20, 1.0), at(22, 1.5)), 0)


def test_cells_of_one_run_alone_are_left_out() -> None:
    before = [*at(20), *at(55, **EDGE), *at(20, sampling="greedy", temperature=0.0)]
    after = [*at(20, link="starlink"), *at(55, **EDGE)]
    assert [comparison.cell.arm for comparison in compare(before, after)] == ["edge"]


def test_what_the_second_run_lacks_and_what_was_repeated_too_seldom_is_told() -> None:
    before = [*at(20), *at(55, **EDGE), *at(20, link="starlink"), *at(9, link="wifi")]
    after = [*at(20, repeats=3), *at(55, engine_s=None, **EDGE), *at(9, link="wifi")]
    lost, few = gaps(before, after, ("time_per_token_s", "engine_s_per_token"))
    assert str(lost) == (
        "The second run lacks: dssd-thinned/4 over starlink at T=1, edge engine per token of edge "
        "over lte at T=1."
    )
    assert few.places == ("dssd-thinned/4 over lte at T=1 (5 and 3)",)
    assert gaps(before, before) == []


def test_other_lengths_threads_and_vocabularies_are_named() -> None:
    before = answer(max_tokens=16, num_threads=1, num_ids=8192)
    after = answer(max_tokens=64, num_threads=8, num_ids=49_152)
    assert differences([before], [after]) == {
        "max_tokens": (16, 64), "num_threads": (1, 8), "num_ids": (8192, 49_152),
    }  # fmt: skip


def test_other_prompts_and_seeds_are_named_and_more_repeats_are_not() -> None:
    before = [answer(), answer(prompt="list", seed=2), answer(1, seed=1001)]
    after = [answer(), answer(prompt="recipe", seed=2), answer(1, seed=1001), answer(2, seed=2001)]
    assert differences(before, after) == {
        "prompts and seeds": ("list with seed 2", "recipe with seed 2")
    }
    fewer = differences([answer(prompt=name) for name in "abcdef"], [answer(prompt="a")])
    asked = ("b with seed 1, c with seed 1, d with seed 1 and 2 more", "none of its own")
    assert fewer == {"prompts and seeds": asked}
    assert differences(before, [*before, answer(2, seed=2001)]) == {}


def test_facts_and_settings_that_differ_are_named() -> None:
    before = answer()
    machine = {**before.machine, "governor": "powersave", "load_1min": 3.0}
    after = Record("run", machine, {**before.settings, "weights": "int4"}, before.results)
    assert differences([before], [after]) == {
        "governor": (None, "powersave"),
        "weights": (None, "int4"),
    }


def test_the_table_and_its_json() -> None:
    found = compare(list(at(20, 0.5)), list(at(22, 0.5)))
    (row,) = table(found).rows
    assert [entry.markdown for entry in row] == [
        "lte", "T=1", "dssd-thinned/4", "time per token, ms", "20.0 [19.5–20.5]",
        "22.0 [21.5–22.5]", "1.100", "**slower**",
    ]  # fmt: skip
    (cell,) = to_json(found, {"governor": (None, "x")}, [])["cells"]
    assert cell["verdict"] == "slower" and cell["before"]["coverage"] == 0.9375
    assert cell["after"]["median"] == pytest.approx(0.022) and cell["after"]["repeats"] == 5
