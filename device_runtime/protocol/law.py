"""A law: a probability distribution over token ids after all sampling parameters were applied.

The mathematics of every scheme is written against the `Law` protocol. `ArrayLaw` is the numpy
implementation (device, tests, simulator); the edge has one on torch with the same meaning.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLOCK = 64


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
    """A law as two arrays: ids (n,), ascending, and their probabilities (n,), positive.

    Both arrays are read only. A law over all ids of a vocabulary costs no search: the position of
    an id is a difference. What only some callers need (`probs`, the CDF) is computed when asked.
    """

    __slots__ = ("_block_cdf", "_cdf", "_mass", "_probs", "_weights", "ids")

    def __init__(self, ids: Ids, weights: Floats) -> None:
        """weights (n,) ≥ 0, not all 0; they are normalised and zeros are dropped.

        The law keeps the arrays that it is given: the caller must not write to them any more.
        """
        self._mass = float(weights.sum())
        # A positive weight can be so small that its probability is 0.
        if float(weights.min()) / self._mass == 0:
            positive = np.flatnonzero(weights / self._mass)
            ids, weights = ids[positive], weights[positive]
        self.ids = ids
        self._weights = weights
        self._probs: Floats | None = None
        self._cdf: Floats | None = None
        self._block_cdf: Floats | None = None

    @classmethod
    def dense(cls, weights: Floats) -> ArrayLaw:
        """weights (vocab,): one per id from 0."""
        return cls(all_ids(len(weights)), weights)

    @classmethod
    def one_hot(cls, token_id: int) -> ArrayLaw:
        """All mass on one id: greedy decoding."""
        return cls(np.array([token_id], np.int64), np.ones(1))

    @property
    def probs(self) -> Floats:
        """The probabilities (n,) of `ids`."""
        if self._probs is None:
            self._probs = self._weights / self._mass
            self._probs.setflags(write=False)
        return self._probs

    def prob(self, ids: Ids) -> Floats:
        if ids is self.ids:
            return self.probs
        first, num_ids = self.ids[0], len(self.ids)
        if self.ids[-1] - first == num_ids - 1:  # a run without gaps
            at = ids - first
            known = (at >= 0) & (at < num_ids)
        else:
            at = np.searchsorted(self.ids, ids)
            known = self.ids.take(at, mode="clip") == ids
        return np.where(known, self._weights.take(at, mode="clip") / self._mass, 0.0)

    def prob_of(self, token_id: int) -> float:
        """Probability of one id: the same double as by `prob`, at a tenth of the time."""
        at = int(self.ids.searchsorted(token_id))
        if at == len(self.ids) or self.ids[at] != token_id:
            return 0.0
        return float(self._weights[at] / self._mass)

    def draw(self, uniforms: Floats) -> Ids:
        if self._cdf is None and len(uniforms) < len(self.ids) // 1024:
            at = self._positions_by_block(uniforms)
        else:
            if self._cdf is None:
                self._cdf = np.cumsum(self._weights)
            # Scaled by the last sum, so that rounding cannot push a draw past the end.
            at = np.searchsorted(self._cdf, uniforms * self._cdf[-1], side="right")
        return self.ids[np.minimum(at, len(self.ids) - 1)]

    def _positions_by_block(self, uniforms: Floats) -> Ids:
        """The same search in two steps: a few draws do not pay for the sums of all ids."""
        if self._block_cdf is None:
            starts = np.arange(0, len(self._weights), _BLOCK)
            self._block_cdf = np.cumsum(np.add.reduceat(self._weights, starts))
        goals = uniforms * self._block_cdf[-1]
        blocks = np.searchsorted(self._block_cdf, goals, side="right")
        rest = goals - np.where(blocks > 0, self._block_cdf[blocks - 1], 0.0)
        at = (blocks * _BLOCK)[:, None] + np.arange(_BLOCK)  # (n, _BLOCK)
        sums = np.cumsum(self._weights.take(at, mode="clip"), axis=1)
        # Rounding may give one position too many: the next id has positive probability too.
        positions: Ids = blocks * _BLOCK + (sums <= rest[:, None]).sum(axis=1)
        return positions

    def support(self) -> Ids:
        return self.ids


@lru_cache(maxsize=8)
def all_ids(num_ids: int) -> Ids:
    """The ids from 0 to num_ids − 1; one read-only array for all callers."""
    ids = np.arange(num_ids, dtype=np.int64)
    ids.setflags(write=False)
    return ids


def prob_of(law: Law, token_id: int) -> float:
    """Probability of one id."""
    if isinstance(law, ArrayLaw):
        return law.prob_of(token_id)
    return float(law.prob(np.array([token_id], np.int64))[0])


def overlap(p: Law, q: Law) -> float:
    """Σ min(p, q) = 1 − D, the best acceptance any exact scheme can reach."""
    ids = q.support()
    return float(np.minimum(p.prob(ids), q.prob(ids)).sum())
