"""The chance that a scheme accepts a draft at a place, given p and q: alpha without its noise."""

from __future__ import annotations

import numpy as np

from device_runtime.protocol.law import Floats, Law, overlap, prob_of
from device_runtime.protocol.schemes.base import Drafted, Scheme
from device_runtime.protocol.schemes.dssd import Dssd
from device_runtime.protocol.schemes.greedy import GreedyDraft
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.packed import DssdPacked


def expected_acceptance(scheme: Scheme, p: Law, q: Law, drafted: Drafted) -> float | None:
    """Over all drafts of q; None where there is no formula that is quick to compute (`coupled`).

    drafted: as the device has it, with the law that it was drawn from where the scheme rounds q.
    """
    if isinstance(scheme, GreedyDraft):
        return prob_of(p, drafted.token_id)
    if isinstance(scheme, Dssd):
        return overlap(p, q)
    if isinstance(scheme, KnownDraft):
        return overlap(p, drafted.evidence.law())
    if isinstance(scheme, IndexTest):
        ids = q.support()
        return float(np.minimum(rounded(scheme, p, p.prob(ids)), q.prob(ids)).sum())
    return None


def rounded(scheme: IndexTest, p: Law, probs: Floats) -> Floats:
    """Probabilities (n,) of p as p̃ has them."""
    if isinstance(scheme, DssdPacked):
        rounding = scheme.rounding(p)
        return rounding.level(rounding.number(probs))
    return scheme.grid.level(scheme.grid.floor(probs))
