"""A law: a probability distribution over token ids after all sampling parameters were applied.

The mathematics of every scheme is written against the `Law` protocol. `ArrayLaw` is the numpy
implementation (device, tests, simulator); the edge has one on torch with the same meaning.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class Law(Protocol):
    """Probabilities are float64 and sum to 1 up to rounding."""

    def prob(self, ids: Ids) -> Floats:
        """Probabilities (n,) of ids (n,); 0 for an id outside the support."""
        ...

    def draw(self, uniforms: Floats) -> Ids:
        """Token ids (n,) by inverse CDF in id order from uniforms (n,) in [0, 1)."""
        ...

    def support(self) -> Ids:
        """The ids of positive probability, ascending."""
        ...


class ArrayLaw:
    """A law as two arrays: ids (n,), ascending, and their probabilities (n,), positive."""

    __slots__ = ("_cdf", "ids", "probs")

    def __init__(self, ids: Ids, weights: Floats) -> None:
        """weights (n,) ≥ 0, not all 0; they are normalised and zeros are dropped."""
        positive = weights > 0
        if not positive.all():
            ids, weights = ids[positive], weights[positive]
        self.ids = ids
        self.probs = weights / weights.sum()
        self._cdf: Floats | None = None

    @classmethod
    def dense(cls, weights: Floats) -> ArrayLaw:
        """weights (vocab,): one per id from 0."""
        return cls(np.arange(len(weights), dtype=np.int64), weights)

    @classmethod
    def one_hot(cls, token_id: int) -> ArrayLaw:
        """All mass on one id: greedy decoding."""
        return cls(np.array([token_id], np.int64), np.ones(1))

    def prob(self, ids: Ids) -> Floats:
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, self.probs[at], 0.0)

    def draw(self, uniforms: Floats) -> Ids:
        if self._cdf is None:
            self._cdf = np.cumsum(self.probs)
        # Scaled by the last sum, so that rounding cannot push a draw past the end.
        at = np.searchsorted(self._cdf, uniforms * self._cdf[-1], side="right")
        return self.ids[np.minimum(at, len(self.ids) - 1)]

    def support(self) -> Ids:
        return self.ids


def prob_of(law: Law, token_id: int) -> float:
    """Probability of one id."""
    return float(law.prob(np.array([token_id], np.int64))[0])


def overlap(p: Law, q: Law) -> float:
    """Σ min(p, q) = 1 − D, the best acceptance any exact scheme can reach."""
    ids = q.support()
    return float(np.minimum(p.prob(ids), q.prob(ids)).sum())
