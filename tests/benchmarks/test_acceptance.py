"""Acceptance and errors by formula agree with the enumeration of all coins."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.acceptance import expected_acceptance
from benchmarks.rounding_error import rounding_errors, row_error
from device_runtime.protocol.grid import GRID, Grid
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Place, Vocabulary
from device_runtime.protocol.schemes.packed import PACKED_GRID
from tests.exact_law import (
    EnumeratedCoins,
    EnumeratedStreams,
    cuts_of,
    emitted_law,
    enumerate_law,
    evidence_sent,
)  # fmt: skip

P = ArrayLaw.dense(np.array([0.31, 0.22, 0.45, 0.02]))
Q = ArrayLaw.dense(np.array([0.17, 0.43, 0.11, 0.29]))
PLACE = Place(0, 0)
ROUNDED = ("dssd", "dssd-fp32")
GRIDS: dict[str, Grid] = {"dssd-packed": PACKED_GRID, "dssd-thinned": GRID}


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "coupled"])
def test_expected_acceptance_is_the_enumerated_one(name: str) -> None:
    scheme, grid = SCHEMES[name], GRIDS.get(name)

    def run(coins: EnumeratedCoins, streams: EnumeratedStreams) -> bool:
        drafted = scheme.draft(Q, PLACE, coins)
        received = evidence_sent(scheme, drafted, Vocabulary(4))
        return scheme.accepts(P, received, PLACE, streams.at(0, 0, 0, 0))

    law = enumerate_law(run, () if grid is None else cuts_of(scheme, P, grid))
    drafted = scheme.draft(Q, PLACE, device_coins(0))
    chance = expected_acceptance(scheme, P, Q, drafted)
    if name == "greedy-draft":
        assert chance == P.probs[drafted.token_id]
    # `dssd` sends q(x) as a 32-bit float, which the formula leaves out.
    assert chance == pytest.approx(law[True], abs=1e-7 if name in ROUNDED else 1e-12)


def test_coupled_has_no_formula() -> None:
    scheme = SCHEMES["coupled"]
    drafted = scheme.draft(Q, PLACE, device_coins(0))
    assert expected_acceptance(scheme, P, Q, drafted) is None


@pytest.mark.parametrize(("name", "dtype"), [("dssd", "<f2"), ("dssd-fp32", "<f4")])
def test_the_error_of_a_rounded_row_is_the_enumerated_one(name: str, dtype: str) -> None:
    """Both of its roundings: the row's, and that of q(x), which goes up as a 32-bit float."""
    emitted = emitted_law(SCHEMES[name], P, Q, 4)
    enumerated = np.abs(emitted - P.probs).sum() / 2
    assert row_error(P, Q, 4, dtype) == pytest.approx(enumerated, abs=1e-14)


def test_what_rounding_takes_is_small_and_positive() -> None:
    found = rounding_errors([(P, Q)], 4)
    assert found.overlap == pytest.approx(np.minimum(P.probs, Q.probs).sum())
    assert 0 < found.lost_packed < 0.005
    assert 0 < found.lost_thinned < 0.005
