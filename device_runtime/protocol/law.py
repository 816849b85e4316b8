"""A law: a probability distribution over token ids after all sampling parameters were applied.

The mathematics of every scheme is written against the `Law` protocol. `ArrayLaw` is the numpy
implementation (device, tests, simulator); the edge has one on torch with the same meaning.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Weights = NDArray[np.float32] | NDArray[np.float64]
"""What a law is made of. Single precision takes half the memory; sums of it are double."""

_BLOCK = 256
_FEW = 1024
"""Ids a draw, from which on it pays to look for its block first."""


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

    Weights of single precision are taken as they are: sums and probabilities are double all the same,
    so that what is drawn, judged and subtracted is one law.
    """

    __slots__ = ("_block_cdf", "_cdf", "_drawn", "_mass", "_probs", "_weights", "ids")

    def __init__(self, ids: Ids, weights: Weights) -> None:
        """weights (n,) ≥ 0, not all 0; they are normalised and zeros are dropped.

        The law keeps the arrays that it is given: the caller must not write to them any more.
        """
        block_cdf = _block_cdf(weights)
        # A positive weight can be so small that its probability is 0. (Where a model ran just before,
        # argmin takes a third of the time of min: to_law has called argmax, and they share code.)
        if float(weights[weights.argmin()]) / float(block_cdf[-1]) == 0:
            positive = np.flatnonzero(_over(weights, float(block_cdf[-1])))
            ids, weights = ids[positive], weights[positive]
            block_cdf = _block_cdf(weights)
        self.ids = ids
        self._weights = weights
        self._block_cdf = block_cdf
        self._mass = float(block_cdf[-1])
        self._probs: Floats | None = None
        self._cdf: Floats | None = None
        self._drawn: tuple[Ids, Ids] | None = None
        """The last draws and their places: their probabilities are asked for next."""

    @classmethod
    def dense(cls, weights: Weights) -> ArrayLaw:
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
            self._probs = _over(self._weights, self._mass)
            self._probs.setflags(write=False)
        return self._probs

    def prob(self, ids: Ids) -> Floats:
        if ids is self.ids:
            return self.probs
        if self._drawn is not None and ids is self._drawn[0]:
            return _over(self._weights.take(self._drawn[1], mode="clip"), self._mass)
        first, num_ids = self.ids[0], len(self.ids)
        if self.ids[-1] - first == num_ids - 1:  # a run without gaps
            at = ids - first
            known = (at >= 0) & (at < num_ids)
        else:
            at = self.ids.searchsorted(ids)
            known = self.ids.take(at, mode="clip") == ids
        return np.where(known, _over(self._weights.take(at, mode="clip"), self._mass), 0.0)

    def prob_of(self, token_id: int) -> float:
        """Probability of one id: the same double as by `prob`, at a tenth of the time."""
        at = int(self.ids.searchsorted(token_id))
        if at == len(self.ids) or self.ids[at] != token_id:
            return 0.0
        return float(self._weights[at]) / self._mass

    def draw(self, uniforms: Floats) -> Ids:
        if self._cdf is None and len(uniforms) < len(self.ids) // _FEW:
            goals = [uniform * self._mass for uniform in uniforms.tolist()]
            at = np.array([self._position(goal) for goal in goals], np.int64)
        else:
            if self._cdf is None:
                self._cdf = self._weights.cumsum(dtype=np.float64)
            # Scaled by the last sum, so that rounding cannot push a draw past the end.
            at = self._cdf.searchsorted(uniforms * self._cdf[-1], side="right")
        drawn = self.ids.take(at, mode="clip")
        drawn.setflags(write=False)
        self._drawn = drawn, at
        return drawn

    def _position(self, goal: float) -> int:
        """The same search in two steps: a few draws do not pay for the sums of all ids."""
        block = int(self._block_cdf.searchsorted(goal, side="right"))
        first = block * _BLOCK
        rest = goal - float(self._block_cdf[block - 1]) if block else goal
        sums = self._weights[first : first + _BLOCK].cumsum(dtype=np.float64)
        # Rounding may give one position too many: the next id has positive probability too.
        return first + int(sums.searchsorted(rest, side="right"))

    def support(self) -> Ids:
        return self.ids


def _over(weights: Weights, mass: float) -> Floats:
    """weights (n,) / mass, in double precision whatever they are of."""
    probs: Floats = np.divide(weights, mass, dtype=np.float64)
    return probs


def _block_cdf(weights: Weights) -> Floats:
    """Sums (blocks,) of all weights up to the end of each block: one pass, and the last is the mass.

    A law of few ids is drawn from by its whole CDF: one block does.
    """
    if len(weights) < _FEW:
        whole: Floats = weights.sum(dtype=np.float64, keepdims=True)
        return whole
    cdf: Floats = np.add.reduceat(weights, _starts(len(weights)), dtype=np.float64).cumsum()
    return cdf


@lru_cache(maxsize=8)
def _starts(num_ids: int) -> Ids:
    """Where the blocks begin; one read-only array for all laws of a size."""
    starts = np.arange(0, num_ids, _BLOCK)
    starts.setflags(write=False)
    return starts


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


def log_prob(prob: float) -> float:
    """ln of a probability that rounding may have taken to 0."""
    return math.log(max(float(prob), 1e-300))


def overlap(p: Law, q: Law) -> float:
    """Σ min(p, q) = 1 − D, the best acceptance any exact scheme can reach."""
    ids = q.support()
    return float(np.minimum(p.prob(ids), q.prob(ids)).sum())
