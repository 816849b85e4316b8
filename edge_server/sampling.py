"""The logits of a whole batch → laws, on the CPU or a GPU, without sorting rows.

The meaning is that of `device_runtime.protocol.sampling.to_law`, row by row and tie by tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.penalties import adjustments
from device_runtime.protocol.sampling import LogitsError, Sampling
from edge_server.law import LawBatch
from edge_server.truncation import drop_light, drop_outside_nucleus, keep_heaviest


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
