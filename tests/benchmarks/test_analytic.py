"""The formulas against the numbers that the papers print, and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.analytic import (
    DssdLink,
    accepted_share,
    best_gamma,
    dsd_uplink_bits,
    gumbel_acceptance,
    gumbel_lower_bound,
    lambert_w_lower,
    lattice_bits,
    minhash_acceptance,
    sparse_row_bits,
    speed_up,
    stationary_gamma,
    tk_slt_uplink_bits,
    tokens_per_round,
)
from device_runtime.protocol.law import ArrayLaw, Floats
from device_runtime.protocol.schemes.base import Place
from device_runtime.protocol.schemes.coupled import coupled_token

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
DSSD_TABLE_1_MS = {
    2: (26.00, 25.12, 24.08, 22.88, 21.52, 20.16),
    4: (27.50, 26.96, 26.08, 24.72, 22.75, 20.32),
    6: (27.88, 27.63, 27.06, 25.90, 23.75, 20.47),
    8: (27.97, 27.87, 27.54, 26.66, 24.56, 20.62),
}
OPT = 50_272

TK_SLT_COSTS = (0.01, 0.1, 0.2, 0.4, 0.6)
TK_SLT_TABLE_1 = {0.4: (4, 2, 1, 1, 1), 0.6: (7, 3, 2, 1, 1), 0.8: (14, 6, 4, 2, 1)}


@pytest.mark.parametrize("gamma", DSSD_TABLE_1_MS)
def test_equation_9_gives_table_1_of_dssd(gamma: int) -> None:
    """The table is 20 ms + 8 ms · (1 − α^γ): 16 bits an id, 100 Mbps and V rounded to 50,000."""
    link = DssdLink(50_000, 16, 100e6, 0.020)
    times_ms = [1e3 * link.comm_s(alpha, gamma) for alpha in ALPHAS]
    assert times_ms == pytest.approx(DSSD_TABLE_1_MS[gamma], abs=0.005001)


def test_equation_9_with_the_whole_vocabulary_is_close_to_table_1() -> None:
    link = DssdLink(OPT, 16, 100e6, 0.020)
    assert link.comm_s(0.5, 2) == pytest.approx(0.02603, abs=1e-5)


def test_the_uplink_of_dsd_is_megabytes() -> None:
    bits = dsd_uplink_bits(OPT, 8, 16)
    assert bits == pytest.approx(6.43e6, rel=1e-3)
    assert bits / 100e6 == pytest.approx(0.0643, rel=1e-3)
    assert dsd_uplink_bits(OPT, 8, 32) / 8 == pytest.approx(1.61e6, rel=1e-2)


@pytest.mark.parametrize("alpha", TK_SLT_TABLE_1)
def test_the_closed_form_gives_table_1_of_tk_slt(alpha: float) -> None:
    assert [best_gamma(alpha, cost) for cost in TK_SLT_COSTS] == list(TK_SLT_TABLE_1[alpha])


@pytest.mark.parametrize("round_cost", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("cost", [0.003, 0.01, 0.1, 0.2, 0.4, 0.6, 0.95])
def test_the_closed_form_is_what_trying_every_gamma_gives(
    alpha: float, cost: float, round_cost: float
) -> None:
    found = speed_up(alpha, cost, best_gamma(alpha, cost, round_cost), round_cost)
    assert found == max(speed_up(alpha, cost, gamma, round_cost) for gamma in range(1, 300))


def test_the_speed_up_at_the_optimum_is_the_papers() -> None:
    found = [speed_up(0.8, cost, best_gamma(0.8, cost)) for cost in TK_SLT_COSTS]
    assert found == pytest.approx([4.232, 2.470, 1.868, 1.356, 1.125], abs=5e-4)


def test_a_costlier_round_asks_for_longer_blocks() -> None:
    gammas = [stationary_gamma(0.8, 0.1, round_cost) for round_cost in (0.0, 1.0, 4.0)]
    assert gammas == sorted(gammas)
    assert gammas[-1] > 1.5 * gammas[0]


@pytest.mark.parametrize("log_minus_x", [-1.0, -1.000001, -1.1, -2.0, -30.0, -700.0, -1e6])
def test_the_lower_branch_of_lambert_inverts(log_minus_x: float) -> None:
    w = lambert_w_lower(log_minus_x)
    assert w <= -1
    assert math.log(-w) + w == pytest.approx(log_minus_x, rel=1e-12)


def test_the_lower_branch_is_real_only_from_minus_one_over_e_on() -> None:
    with pytest.raises(ValueError, match="real only"):
        lambert_w_lower(-0.99)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.61, 0.99, 1.0])
@pytest.mark.parametrize("gamma", [0, 1, 8])
def test_expected_tokens_follow_from_the_chance_of_every_length(alpha: float, gamma: int) -> None:
    rejected_at = [alpha**i * (1 - alpha) for i in range(gamma)]
    whole = alpha**gamma
    expected = sum((i + 1) * chance for i, chance in enumerate(rejected_at)) + (gamma + 1) * whole
    assert tokens_per_round(alpha, gamma) == pytest.approx(expected, rel=1e-12)
    without = expected - whole
    assert tokens_per_round(alpha, gamma, bonus=False) == pytest.approx(without, rel=1e-12)


def test_the_accept_rate_of_dssds_files_is_not_alpha() -> None:
    """α = 0.71 at γ = 8 is an accept rate of .288, 3.3 tokens a round and 39 rounds for 128 tokens."""
    assert accepted_share(0.71, 8) == pytest.approx(0.288, abs=0.005)
    assert 128 / tokens_per_round(0.71, 8) == pytest.approx(39, abs=0.5)


def test_payloads_are_the_papers() -> None:
    assert tk_slt_uplink_bits(32_000, 1) == 512_000
    assert sparse_row_bits(30, 8, 32_000) / 8 == 86.25


def test_lattice_numbers_have_the_published_sizes() -> None:
    """16 bits of each are the drafted id."""
    assert [lattice_bits(OPT, resolution) + 16 for resolution in (240, 720)] == [2_209, 5_467]


def random_pair(seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(6, 0.5)), rng.dirichlet(np.full(6, 0.5))


@pytest.mark.parametrize("seed", range(20))
def test_gumbel_coupling_lies_between_its_bounds_and_the_optimum(seed: int) -> None:
    p, q = random_pair(seed)
    values = [
        minhash_acceptance(p, q),
        gumbel_lower_bound(p, q),
        gumbel_acceptance(p, q),
        float(np.minimum(p, q).sum()),
    ]
    assert values == sorted(values)


@pytest.mark.parametrize("seed", range(3))
def test_coupled_tokens_meet_as_often_as_the_formula_says(seed: int) -> None:
    p, q = random_pair(seed)
    laws = ArrayLaw.dense(p), ArrayLaw.dense(q)
    places = [Place(11, position) for position in range(1_500)]
    met = np.mean([coupled_token(laws[0], at) == coupled_token(laws[1], at) for at in places])
    expected = gumbel_acceptance(p, q)
    deviation = math.sqrt(expected * (1 - expected) / len(places))
    assert abs(met - expected) < 4 * deviation
    assert abs(minhash_acceptance(p, q) - expected) > 0  # the formulas are not the same


def test_laws_without_a_common_id_never_meet() -> None:
    p, q = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.0, 0.0, 0.3, 0.7])
    assert gumbel_acceptance(p, q) == gumbel_lower_bound(p, q) == minhash_acceptance(p, q) == 0
    assert gumbel_acceptance(p, p) == pytest.approx(1)
