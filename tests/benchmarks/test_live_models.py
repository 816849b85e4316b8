"""Predictions from cells whose times were made by the same arithmetic, link by link."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.analytic import tokens_per_round
from benchmarks.live_models import cost_of, paper_speed_up, predict
from benchmarks.record import Record
from benchmarks.report.cells import Cell, cells_of

COMPUTE_S, NUM_IDS, ROUNDS, ANSWERS = 0.010, 1000, 41, 5
UP_BYTES, DOWN_BYTES = 250, 2_000


def an_answer(arm: str, rtt_s: float, down_bps: float, repeat: int, **more: Any) -> Record:
    """82 tokens in 41 rounds, each of which takes compute, a round trip and its bytes."""
    up_bps = down_bps / 10
    round_s = COMPUTE_S + rtt_s + 8 * (UP_BYTES / up_bps + DOWN_BYTES / down_bps)
    if arm == "edge":
        round_s = COMPUTE_S
    wall_s = 0.5 + (ROUNDS - 1) * round_s
    values: dict[str, Any] = {
        "arm": arm, "mode": "split", "lossless": True, "link": f"{rtt_s} {down_bps}",
        "sampling": "T=1", "scheme": arm.partition("/")[0], "gamma": 4, "link_rtt_s": rtt_s,
        "link_up_bps": up_bps, "link_down_bps": down_bps, "seed": repeat, "prompt": "p",
        "token_ids": list(range(2 * ROUNDS)), "rounds": ROUNDS, "more_requests": 0,
        "drafted": 4 * ROUNDS, "accepted": 30, "rejected": 20, "first_tokens": 1,
        "ttft_s": 0.5, "wall_s": wall_s,
        "tpot_s": (wall_s - 0.5) / (2 * ROUNDS - 1), "round_draft_s": 0.004,
        "wire_bytes_up": UP_BYTES * ROUNDS, "wire_bytes_down": DOWN_BYTES * ROUNDS,
    }  # fmt: skip
    if arm == "edge":
        values |= {"mode": "edge", "rounds": 0, "drafted": 0, "accepted": 0, "rejected": 0}
        values |= {"token_ids": list(range(ROUNDS))}
    return Record.of("run", {}, values | more, repeat=repeat)


def cells(*arms: str, **more: Any) -> list[Cell]:
    links = [(0.0, 50e6), (0.02, 50e6), (0.05, 50e6), (0.02, 10e6)]
    return cells_of([
        an_answer(arm, *link, repeat, **more)
        for arm in arms for link in links for repeat in range(ANSWERS)
    ])  # fmt: skip


def test_what_a_round_costs_beside_the_link_carries_over_to_other_links() -> None:
    predictions = predict(cells("dssd-thinned/4", "edge"), NUM_IDS)
    assert [p.is_calibration for p in predictions] == [True, False, False, False] * 2
    for prediction in predictions:
        assert prediction.error == pytest.approx(0, abs=0.001)
        assert prediction.paper_s is None


def test_a_link_that_behaves_otherwise_shows_as_an_error() -> None:
    """Half as many messages as rounds would need: the prediction must not follow the live time."""
    found = predict(cells("coupled/4", more_requests=ROUNDS), NUM_IDS)
    far = next(p for p in found if p.cell.settings["link_rtt_s"] == 0.05)
    assert far.error > 0.5


def test_the_papers_equations_bill_one_direction() -> None:
    dssd = predict(cells("dssd/4"), NUM_IDS)
    far = next(p for p in dssd if p.cell.settings["link_rtt_s"] == 0.05)
    cost = cost_of(far.cell)
    assert cost.alpha == pytest.approx(0.6)
    assert far.paper_s is not None
    comm_s = 0.05 + (1 - 0.6**4) * NUM_IDS * 16 / 50e6
    compute_s = far.predicted_s * cost.tokens - 0.05 - 8 * (UP_BYTES / 5e6 + DOWN_BYTES / 50e6)
    assert far.paper_s == pytest.approx((compute_s + comm_s) / cost.tokens)
    dsd = predict(cells("dsd/4"), NUM_IDS)[2]
    assert dsd.paper_s is not None
    assert dsd.paper_s * cost.tokens - compute_s == pytest.approx(0.05 + 4 * NUM_IDS * 16 / 5e6)


def test_the_speed_up_takes_alpha_for_every_place() -> None:
    split, edge = predict(cells("dssd-thinned/4"), NUM_IDS)[1], predict(cells("edge"), NUM_IDS)[1]
    cost = cost_of(split.cell)
    expected = tokens_per_round(0.6, 4) * edge.predicted_s / (split.predicted_s * cost.tokens)
    assert paper_speed_up(split, edge) == pytest.approx(expected)
