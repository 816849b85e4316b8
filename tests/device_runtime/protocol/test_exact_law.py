"""Every lossless scheme emits p exactly, at one place, through all codecs.

All ways the coins can fall are enumerated: no luck, no tolerance beyond rounding. That the check can
fail is shown in test_exact_mutants.py; the laws of whole blocks are in test_exact_blocks.py and, as
sessions write them, in test_exact_sessions.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.law import ArrayLaw, Law
from device_runtime.protocol.randomness import Coins, Streams
from device_runtime.protocol.sampling import to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme
from device_runtime.protocol.schemes.coupled import coupled_token
from device_runtime.protocol.schemes.packed import DssdPacked
from device_runtime.protocol.schemes.thinned import DssdThinned
from tests.exact_cases import (
    COARSE,
    DEGENERATE,
    EXACT,
    INEXACT,
    NUM_PARTS,
    SAMPLINGS,
    TOLERANCE,
    Subject,
    error_of,
    laws_of,
    sampled_cases,
)
from tests.exact_law import emitted_law

P_LOGITS = np.array([1.0, 0.2, 0.7])
Q_LOGITS = np.array([0.3, 1.1, -0.8])


def test_every_lossless_scheme_is_under_test() -> None:
    lossless = {name for name, scheme in SCHEMES.items() if scheme.lossless}
    assert lossless == {name for name in EXACT if "," not in name} | INEXACT


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", EXACT)
def test_the_emitted_law_is_p_for_degenerate_laws(name: str, case: str) -> None:
    assert error_of(EXACT[name], *laws_of(DEGENERATE[case])) < TOLERANCE


@pytest.mark.parametrize("name", EXACT)
def test_the_emitted_law_is_p_for_all_sampling_parameters(name: str) -> None:
    generated = [0, 2, 2]
    for sampling in SAMPLINGS:
        p, q = (to_law(logits, sampling, generated) for logits in (P_LOGITS, Q_LOGITS))
        assert error_of(EXACT[name], p, q, 3) < TOLERANCE, sampling


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, NUM_PARTS))]
)
@pytest.mark.parametrize("name", EXACT)
def test_the_emitted_law_is_p_for_degenerate_laws_and_all_sampling_parameters(
    name: str, part: int
) -> None:
    patience = 2 if name.startswith("dssd-thinned") else 1
    for description, p, q, num_ids in sampled_cases(part):
        assert error_of(EXACT[name], p, q, num_ids, patience=patience) < TOLERANCE, description


@pytest.mark.parametrize("name", EXACT)
def test_the_emitted_law_is_p_where_the_slm_knows_fewer_ids(name: str) -> None:
    p, q = ArrayLaw.dense(np.array([0.2, 0.4, 0.1, 0.3])), ArrayLaw.dense(np.array([0.5, 0.5]))
    subject = EXACT[name]
    emitted = emitted_law(subject.scheme, p, q, 4, num_shared=2, grid=subject.grid)
    assert np.abs(emitted - p.probs).max() < TOLERANCE


@pytest.mark.parametrize("scheme", [DssdPacked(COARSE, 0.3), DssdThinned(COARSE)])
def test_lumping_the_indices_between_two_cuts_changes_nothing(scheme: Scheme) -> None:
    p, q, num_ids = laws_of(((0.15, 0.85, 0), (0.3, 0.6, 0.1)))
    assert error_of(Subject(scheme), p, q, num_ids) < TOLERANCE
    assert error_of(Subject(scheme, COARSE), p, q, num_ids) < TOLERANCE


@pytest.mark.parametrize(("num_draws", "patience"), [(1, 3), (2, 2), (3, 1), (2, 0)])
@pytest.mark.parametrize("name", ["dssd-thinned", "dssd-thinned, coarse"])
def test_the_emitted_law_is_p_however_draws_are_asked_for(
    name: str, num_draws: int, patience: int
) -> None:
    p, q, num_ids = laws_of(((0.7, 0.3), (0.35, 0.65)))
    assert error_of(EXACT[name], p, q, num_ids, num_draws, patience) < TOLERANCE


weights = st.one_of(
    st.just(0.0),
    st.floats(1e-3, 1.0),
    st.sampled_from([1e-300, 1e-12, 2.0**-31, 2.0**-30, 0.125, 0.5]),
)
pairs_of_laws = (
    st.integers(1, 3)
    .flatmap(lambda n: st.tuples(*[st.lists(weights, min_size=n, max_size=n)] * 2))
    .filter(lambda pair: any(pair[0]) and any(pair[1]))
)


requests = st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 0)])
"""Draws a request, and requests before the whole row is asked for."""


@pytest.mark.parametrize("name", EXACT)
@given(pair=pairs_of_laws, request=requests)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_the_emitted_law_is_p_for_any_laws(
    name: str, pair: tuple[list[float], list[float]], request: tuple[int, int]
) -> None:
    num_draws, patience = request
    assert error_of(EXACT[name], *laws_of(pair), num_draws, patience) < TOLERANCE


# Schemes with a stated error


@pytest.mark.parametrize(("name", "ulp"), [("dssd", 2.0**-10), ("dssd-fp32", 2.0**-23)])
def test_dssd_stays_within_the_rounding_of_its_row(name: str, ulp: float) -> None:
    """D(emitted, p) ≤ Σ|p̂ − p| + rounding of q(x): half an ulp each, and below it an absolute part."""
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(20):
        pair = tuple(rng.dirichlet(np.full(4, 0.5)) for _ in range(2))
        p, q, num_ids = laws_of(pair)  # type: ignore[arg-type]
        worst = max(worst, error_of(Subject(SCHEMES[name]), p, q, num_ids))
    assert TOLERANCE < worst < ulp / 2 + num_ids * 2.0**-25 * ulp / 2.0**-10 + 2.0**-23


def test_coupled_tokens_follow_p() -> None:
    """Chi-square over positions, which share a seed; 20.5 is exceeded with chance 0.001."""
    p = np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
    law = ArrayLaw.dense(p)
    num_tokens = 6_000
    drawn = [coupled_token(law, Place(9, position)) for position in range(num_tokens)]
    expected = p * num_tokens
    assert ((np.bincount(drawn, minlength=6) - expected) ** 2 / expected).sum() < 20.5


def test_coupled_commits_the_llms_token_whatever_was_drafted() -> None:
    rng = np.random.default_rng(5)
    scheme = SCHEMES["coupled"]
    for position in range(200):
        p, q, num_ids = laws_of(tuple(rng.dirichlet(np.full(5, 0.7)) for _ in range(2)))  # type: ignore[arg-type]
        place = Place(21, position)
        emitted = emitted_law(_At(scheme, place), p, q, num_ids)
        assert emitted[coupled_token(p, place)] == 1


class _At:
    """A scheme moved to another place; the enumeration's own place is always the same."""

    def __init__(self, scheme: Scheme, place: Place) -> None:
        self._scheme, self._place = scheme, place
        self.name, self.code, self.lossless = scheme.name, scheme.code, scheme.lossless
        self.settle, self.next_token = scheme.settle, scheme.next_token
        self.max_gamma = scheme.max_gamma
        self.write_evidence, self.read_evidence = scheme.write_evidence, scheme.read_evidence
        self.write_rejection, self.read_rejection = scheme.write_rejection, scheme.read_rejection

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        return self._scheme.draft(q, self._place, coins)

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        return self._scheme.accepts(p, drafted, self._place, streams)

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> object:
        return self._scheme.reject(p, drafted, self._place, streams, ask)
