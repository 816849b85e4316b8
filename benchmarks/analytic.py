"""The papers' formulas: expected tokens, latency, optimal draft length, payloads, coupling.

Everything here is arithmetic under the papers' assumptions (acceptance α independent from token to
token, payloads without headers). It checks our measurements, and predicts nothing about a real link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from device_runtime.protocol.law import Floats


def tokens_per_round(alpha: float, gamma: int, *, bonus: bool = True) -> float:
    """Expected tokens of a round: (1 − α^(γ+1))/(1 − α), or (1 − α^γ)/(1 − α) without the bonus."""
    return math.fsum(alpha**i for i in range(gamma + bonus))


def accepted_share(alpha: float, gamma: int) -> float:
    """Accepted over drafted tokens, α(1 − α^γ)/((1 − α)γ): lower than α, which counts judged ones."""
    return math.fsum(alpha**i for i in range(1, gamma + 1)) / gamma


# DSSD (arXiv 2507.12000)


@dataclass(frozen=True, slots=True)
class DssdLink:
    """The link of the paper's latency model."""

    vocab_size: int
    prob_bits: int
    downlink_bps: float
    fixed_s: float
    """T_NTT: what every round costs whatever it carries."""

    def comm_s(self, alpha: float, gamma: int) -> float:
        """Equation 9: expected communication time of a round; a rejection sends the whole row."""
        row_s = self.vocab_size * self.prob_bits / self.downlink_bps
        return self.fixed_s + (1 - alpha**gamma) * row_s


def dsd_uplink_bits(vocab_size: int, gamma: int, prob_bits: int) -> int:
    """Equation 4: the rows of a block, as DSD sends them."""
    return gamma * vocab_size * prob_bits


# TK-SLT (arXiv 2509.04576). L is the cost of one drafted token, in units of the LLM's time.


def tk_slt_uplink_bits(num_kept: int, gamma: int, prob_bits: int = 16) -> int:
    """The payload that the paper counts; it leaves the ids out."""
    return gamma * num_kept * prob_bits


def sparse_row_bits(num_kept: int, prob_bits: int, vocab_size: int) -> int:
    """K probabilities and their ids, ⌈log2 V⌉ bits each (CU-HLM, arXiv 2505.11788)."""
    return num_kept * (prob_bits + (vocab_size - 1).bit_length())


def speed_up(alpha: float, token_cost: float, gamma: int, round_cost: float = 0.0) -> float:
    """Equation 11: tokens per time, the LLM alone = 1; round_cost τ (ours) is what a round adds."""
    return tokens_per_round(alpha, gamma) / (1 + round_cost + gamma * token_cost)


def stationary_gamma(alpha: float, token_cost: float, round_cost: float = 0.0) -> float:
    """Equation 21 for 0 < α < 1: the real γ at which `speed_up` is largest.

    With a cost per round τ, L becomes L/(1 + τ).
    """
    cost = token_cost / (1 + round_cost)
    log_alpha = math.log(alpha)
    w = lambert_w_lower(-1.0 + (1 / cost - 1) * log_alpha)
    return (w + 1) / log_alpha - 1 / cost


def lambert_w_lower(log_minus_x: float) -> float:
    """W₋₁(x) for x = −exp(log_minus_x) in [−1/e, 0): the w ≤ −1 with w·e^w = x.

    On logarithms, because x underflows for small draft costs: v − ln v = −log_minus_x with v = −w.
    """
    goal = -log_minus_x
    if goal < 1:
        raise ValueError(f"W₋₁ is real only up to a logarithm of −1, got {log_minus_x}")
    v = goal + math.log(goal) + math.sqrt(2 * (goal - 1))  # right of the root; convex from there
    for _ in range(100):
        step = (v - math.log(v) - goal) * v / max(v - 1, 1e-12)
        v -= step
        if abs(step) < 1e-12 * v:
            break
    return -max(v, 1.0)


def best_gamma(alpha: float, token_cost: float, round_cost: float = 0.0) -> int:
    """Algorithm 1: the better whole neighbour of the stationary γ, the larger on a tie, at least 1."""
    stationary = stationary_gamma(alpha, token_cost, round_cost)
    low, high = max(1, math.floor(stationary)), max(1, math.ceil(stationary))
    low_pays = speed_up(alpha, token_cost, low, round_cost)
    high_pays = speed_up(alpha, token_cost, high, round_cost)
    return low if low_pays > high_pays else high


# Lattices (arXiv 2507.00605)


def lattice_bits(vocab_size: int, resolution: int) -> int:
    """⌈log2 C(ℓ + V − 1, V − 1)⌉: the number of a law of multiples of 1/ℓ."""
    return (math.comb(resolution + vocab_size - 1, resolution) - 1).bit_length()


# Coupling without communication (arXiv 2408.07978)


def gumbel_acceptance(p: Floats, q: Floats) -> float:
    """Chance that argmax(log p + G) = argmax(log q + G): Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i)."""
    both = np.flatnonzero((p > 0) & (q > 0))
    ratios = np.maximum(p[None, :] / p[both, None], q[None, :] / q[both, None])  # (both, vocab)
    return float((1 / ratios.sum(axis=1)).sum())


def gumbel_lower_bound(p: Floats, q: Floats) -> float:
    """Σ_i min_i/(min_i + Σ max − max_i), a bound on `gumbel_acceptance` from below."""
    low, high = np.minimum(p, q), np.maximum(p, q)
    some = low > 0
    return float((low[some] / (low[some] + high.sum() - high[some])).sum())


def minhash_acceptance(p: Floats, q: Floats) -> float:
    """(1 − D)/(1 + D): Weighted MinHash, and the best guarantee without communication."""
    return float(np.minimum(p, q).sum() / np.maximum(p, q).sum())
