"""What is computed of the answers of one repeat: every expected number was computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.report.figures import FIGURES, digits
from benchmarks.run.parts import PARTS
from tests.benchmarks.report.hand_made import answer

ANSWERS = [
    answer().results,
    answer(token_ids=tuple(range(21)), ttft_s=0.4, wall_s=1.2, rounds=6, accepted=14, rejected=1,
           bytes_up=530, wire_bytes_down=2760, engine_s=0.21).results,
]  # fmt: skip


def value(name: str, *answers: Any) -> float | None:
    return FIGURES[name].formula(answers or ANSWERS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("time_per_token_s", (0.2 + 0.8) / (10 + 20)),
        ("ttft_s", 0.3),
        ("tokens_per_s", 32 / 1.6),
        ("tokens_per_round", 32 / 10),
        ("alpha", 20 / 23),
        ("bytes_up_per_token", 640 / 32),
        ("bytes_down_per_token", 440 / 32),
        ("wire_bytes_up_per_token", 660 / 32),
        ("wire_bytes_down_per_token", 100.0),
        ("engine_s_per_token", 0.01),
        ("sessions_per_edge", 5.0),
    ],
)
def test_figures_are_totals_over_totals(name: str, expected: float) -> None:
    assert value(name) == pytest.approx(expected)


def test_tokens_that_came_with_the_first_cost_no_time_after_it() -> None:
    assert value("time_per_token_s", answer(first_tokens=6).results) == pytest.approx(0.2 / 5)
    assert value("time_per_token_s", answer(first_tokens=11).results) is None
    assert value("time_per_token_s", answer(first_tokens=None).results) is None


def test_what_was_not_measured_has_no_figure() -> None:
    for name in ("j_per_token", "message_gap_p50_s", "round_draft_s", "connect_s"):
        assert value(name) is None


def test_an_answer_without_a_value_is_left_out_of_both_totals() -> None:
    silent = answer(wire_bytes_up=None, token_ids=tuple(range(500))).results
    assert value("wire_bytes_up_per_token", *ANSWERS, silent) == pytest.approx(660 / 32)


def test_a_total_of_nothing_has_no_ratio() -> None:
    one_token = answer(token_ids=(1,), rounds=0, accepted=0, rejected=0).results
    for name in ("time_per_token_s", "tokens_per_round", "alpha"):
        assert value(name, one_token) is None


def test_percentiles_are_of_the_gaps_of_all_answers_together() -> None:
    answers = [answer(message_gaps_s=gaps).results for gaps in ([0.1] * 9, [0.2], [])]
    assert value("message_gap_p50_s", *answers) == pytest.approx(0.1)
    assert value("message_gap_p90_s", *answers) == pytest.approx(0.11)  # a tenth of the way


@pytest.mark.parametrize(("num_gaps", "is_told"), [(299, False), (300, True)])
def test_a_rare_percentile_takes_many_gaps(num_gaps: int, is_told: bool) -> None:
    gaps = [index / num_gaps for index in range(num_gaps)]
    found = value("message_gap_p99_s", answer(message_gaps_s=gaps).results)
    assert (found is not None) is is_told
    assert found is None or found == pytest.approx(0.99, abs=0.01)


def test_parts_of_rounds_are_weighed_by_rounds() -> None:
    answers = [
        answer(rounds=1, round_wall_s=0.1, round_up_s=0.02).results,
        answer(rounds=3, round_wall_s=0.2, round_up_s=0.04).results,
    ]
    assert value("round_wall_s", *answers) == pytest.approx(0.175)
    assert value("round_up_s", *answers) == pytest.approx(0.035)
    assert {f"round_{part}_s" for part in PARTS} < FIGURES.keys()


def test_modelled_joules_are_board_and_radio() -> None:
    modelled = answer(compute_j=1.1, wait_j=2.2, radio_j=0.55, gross_j=3.3, net_j=1.1).results
    names = ("j_per_token", "work_j_per_token", "rest_j_per_token", "radio_j_per_token")
    assert [value(name, modelled) for name in names] == pytest.approx([0.35, 0.1, 0.2, 0.05])


def test_measured_joules_are_split_by_the_power_at_rest() -> None:
    measured = answer(gross_j=3.3, net_j=1.1, radio_j=0.55).results
    names = ("j_per_token", "work_j_per_token", "rest_j_per_token")
    assert [value(name, measured) for name in names] == pytest.approx([0.35, 0.1, 0.2])


def test_joules_without_a_radio_are_the_board_s() -> None:
    assert value("j_per_token", answer(gross_j=3.3).results) == pytest.approx(0.3)
    assert value("rest_j_per_token", answer(gross_j=3.3).results) is None


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"), (0.0123456, "0.0123"), (1.0, "1.00"), (21.27, "21.3"), (213.4, "213"),
        (2134.0, "2,130"), (1234567.0, "1,230,000"), (-0.5, "-0.500"), (1e-9, "0.000000"),
    ],
)  # fmt: skip
def test_three_significant_digits(number: float, shown: str) -> None:
    assert digits(number) == shown


def test_figures_are_shown_in_their_unit() -> None:
    assert FIGURES["time_per_token_s"].with_unit(0.0213) == "21.3 ms"
    assert FIGURES["j_per_token"].with_unit(0.2) == "200 mJ"
    assert FIGURES["alpha"].with_unit(0.8) == "0.800"
