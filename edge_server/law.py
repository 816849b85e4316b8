"""Laws on tensors: the logits of a whole batch → laws, on the CPU or a GPU, without sorting rows.

The meaning is that of `device_runtime.protocol.sampling.to_law`, row by row and tie by tie. Laws
stay where the logits were; only probabilities and draws that are asked for cross to the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.law import Floats, Ids
from device_runtime.protocol.penalties import adjustments
from device_runtime.protocol.sampling import LogitsError, Sampling
from edge_server.noise import shared_gumbel
from edge_server.truncation import drop_light, drop_outside_nucleus, keep_heaviest


class LawBatch:
    """Many laws as one tensor `probs` (rows, vocab), float64; `batch[row]` is a `Law`.

    Its own methods answer for many rows at once, so that a batch costs one transfer.
    """

    def __init__(self, weights: Tensor) -> None:
        """weights (rows, vocab), float64, ≥ 0, no row all 0; normalised in place."""
        self.probs = weights.div_(weights.sum(1, keepdim=True))

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, row: int) -> TorchLaw:
        return TorchLaw(self, range(len(self))[row])

    def prob(self, rows: Sequence[int], ids: Ids) -> Floats:
        """Probabilities (n, k) of ids (n, k) under the laws of rows (n,)."""
        columns = torch.tensor(ids, device=self.probs.device)
        inside = columns.clamp(0, self.probs.shape[1] - 1)
        probs = self.probs[_column(rows, torch.int64, columns), inside]
        known: Floats = probs.masked_fill(columns != inside, 0.0).numpy(force=True)
        return known

    def draw(self, rows: Sequence[int], uniforms: Floats) -> Ids:
        """Ids (n, k) by inverse CDF in id order from uniforms (n, k) in [0, 1), one law a row."""
        probs = self.probs[list(rows)]
        cdf = probs.cumsum(1)
        goals = torch.tensor(uniforms, device=cdf.device) * cdf[:, -1:]
        ids = torch.searchsorted(cdf, goals, right=True).clamp_(max=cdf.shape[1] - 1)
        # A scan in parallel may round upwards where the probability is 0, and a draw end there.
        drawn: Ids
        drawn, possible = torch.stack((ids, probs.gather(1, ids) > 0)).numpy(force=True)
        for i, k in np.argwhere(possible == 0):
            support = self[rows[i]].support()
            drawn[i, k] = support[min(np.searchsorted(support, drawn[i, k]), len(support) - 1)]
        return drawn

    def coupled(self, rows: Sequence[int], places: Sequence[tuple[int, int]]) -> Ids:
        """Ids (n,): argmax of log law + noise shared at (seed, position), one law a row."""
        probs = self.probs[list(rows)]
        ids = torch.arange(probs.shape[1], device=probs.device)
        noise = torch.stack([shared_gumbel(seed, position, ids) for seed, position in places])
        best: Ids = probs.log().add_(noise).argmax(1).numpy(force=True)
        return best


class TorchLaw:
    """One row of a `LawBatch` as a `Law`."""

    __slots__ = ("_batch", "_row")

    def __init__(self, batch: LawBatch, row: int) -> None:
        self._batch = batch
        self._row = row

    def coupled(self, seed: int, position: int) -> int:
        """Argmax of log law + shared noise, found where the law is."""
        return int(self._batch.coupled([self._row], [(seed, position)])[0])

    @property
    def probs(self) -> Tensor:
        """The probabilities (vocab,) of all ids, where the model runs."""
        return self._batch.probs[self._row]

    def prob(self, ids: Ids) -> Floats:
        probs: Floats = self._batch.prob([self._row], ids[None])[0]
        return probs

    def draw(self, uniforms: Floats) -> Ids:
        ids: Ids = self._batch.draw([self._row], uniforms[None])[0]
        return ids

    def support(self) -> Ids:
        ids: Ids = self.probs.nonzero().squeeze(1).numpy(force=True)
        return ids


@torch.no_grad()
def to_laws(
    logits: Tensor,
    samplings: Sequence[Sampling],
    generated: Sequence[Sequence[int]],
    num_ids: int | None = None,
) -> LawBatch:
    """Laws from logits (rows, vocab), each row with its own parameters and generated tokens.

    Logits may be of any float type and are not changed; the arithmetic is float64. Only the first
    `num_ids` columns count. Raises LogitsError, which names the rows that no law follows from.
    """
    rows = logits[:, :num_ids].to(torch.float64, copy=True)
    _penalise(rows, samplings, generated)
    best = rows.amax(1, keepdim=True)
    unusable = torch.nonzero(~best[:, 0].isfinite()).squeeze(1).tolist()
    if unusable:
        raise LogitsError(unusable)
    greedy = [i for i, sampling in enumerate(samplings) if sampling.temperature == 0]
    tops = rows[greedy].argmax(1)  # torch promises the first of equals
    if len(greedy) < len(rows):
        _to_weights(rows, best, samplings)
        _truncate(rows, samplings)
    rows[greedy] = 0.0
    rows[greedy, tops] = 1.0
    return LawBatch(rows)


def _penalise(
    rows: Tensor, samplings: Sequence[Sampling], generated: Sequence[Sequence[int]]
) -> None:
    """Penalties and bias, in place."""
    changed = [i for i, sampling in enumerate(samplings) if sampling.changes_logits(generated[i])]
    if not changed:
        return
    changes = [adjustments(samplings[i], generated[i], rows.shape[1]) for i in changed]
    at = np.repeat(changed, [len(change.ids) for change in changes])
    ids, divisors, shifts = (
        torch.tensor(np.concatenate(part), device=rows.device)
        for part in zip(*((c.ids, c.divisors, c.shifts) for c in changes), strict=True)
    )
    where = (torch.tensor(at, device=rows.device), ids)
    old = rows[where]
    rows[where] = torch.where(old > 0, old / divisors, old * divisors) + shifts


def _to_weights(rows: Tensor, best: Tensor, samplings: Sequence[Sampling]) -> None:
    """exp((logit − best) / temperature), in place; greedy rows are done as if at temperature 1."""
    rows -= best
    temperatures = [sampling.temperature or 1.0 for sampling in samplings]
    if set(temperatures) != {1.0}:
        rows /= _column(temperatures, torch.float64, rows)
    rows.exp_()


def _truncate(weights: Tensor, samplings: Sequence[Sampling]) -> None:
    """Top-k, top-p, min-p in this order, in place, on the rows that ask for them."""
    vocab = weights.shape[1]
    steps = (
        (keep_heaviest, torch.int64, [s.top_k if s.top_k < vocab else 0 for s in samplings], 0),
        (drop_outside_nucleus, torch.float64, [s.top_p for s in samplings], 1),
        (drop_light, torch.float64, [s.min_p for s in samplings], 0),
    )
    for cut, dtype, limits, neutral in steps:
        index = [i for i, s in enumerate(samplings) if s.temperature and limits[i] != neutral]
        column = _column([limits[i] for i in index], dtype, weights)
        if len(index) == len(weights):
            cut(weights, column)
        elif index:
            some = weights[index]
            cut(some, column)
            weights[index] = some


def _column(values: Sequence[float], dtype: torch.dtype, like: Tensor) -> Tensor:
    """Values (n,) as a tensor (n, 1) beside `like`."""
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]
