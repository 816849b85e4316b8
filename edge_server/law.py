"""Laws on tensors: the logits of a whole batch → laws, on the CPU or a GPU, without sorting rows.

The meaning is that of `device_runtime.protocol.sampling.to_law`, row by row and tie by tie. Laws
stay where the logits were; only probabilities and draws that are asked for cross to the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.law import Floats, Ids, Law
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
        return _drawn(self.probs[list(rows)], uniforms)

    def draw_above(self, rows: Sequence[int], others: Sequence[Law], uniforms: Floats) -> Ids:
        """As `draw`, from norm(max(0, p − q)) with a law q of `others` for each row p.

        From p itself where rounding left nothing of it, as `known_draft.residual` has it.
        """
        own = self.probs[list(rows)]
        left = own.clone()
        _subtract(left, others)
        left.clamp_(min=0.0)
        is_empty = ~left.any(1, keepdim=True)
        return _drawn(torch.where(is_empty, own, left), uniforms)

    def coupled(self, rows: Sequence[int], places: Sequence[tuple[int, int]]) -> Ids:
        """Ids (n,): argmax of log law + noise shared at (seed, position), one law a row."""
        probs = self.probs[list(rows)]
        ids = torch.arange(probs.shape[1], device=probs.device)
        chances = probs.log().add_(shared_gumbel(places, ids))
        best: Ids = chances.masked_fill_(probs == 0, -torch.inf).argmax(1).numpy(force=True)
        return best

    def rows_on_host(self, rows: Sequence[int]) -> list[tuple[Ids, Floats]]:
        """The support of each law, ascending, and its probabilities: all that there is of it."""
        probs = self.probs[list(rows)]
        is_inside = probs > 0
        counts = is_inside.sum(1).tolist()
        # Columns as int32: what crosses is what it costs.
        columns = is_inside.nonzero()[:, 1].to(torch.int32).numpy(force=True).astype(np.int64)
        values = probs[is_inside].numpy(force=True)
        ends = np.cumsum(counts)[:-1]
        return list(zip(np.split(columns, ends), np.split(values, ends), strict=True))

    def most_probable(self, rows: Sequence[int], count: int) -> tuple[Ids, Floats]:
        """Ids (n, count) of the largest probabilities and these, falling, one law a row."""
        probs, ids = self.probs[list(rows)].topk(min(count, self.probs.shape[1]))
        return ids.numpy(force=True), probs.numpy(force=True)


def _drawn(weights: Tensor, uniforms: Floats) -> Ids:
    """Ids (n, k) by inverse CDF in id order from weights (n, vocab) and uniforms (n, k)."""
    cdf = weights.cumsum(1)
    goals = torch.tensor(uniforms, device=cdf.device) * cdf[:, -1:]
    ids = torch.searchsorted(cdf, goals, right=True).clamp_(max=cdf.shape[1] - 1)
    # A scan in parallel may round upwards where the probability is 0, and a draw end there.
    drawn: Ids
    drawn, possible = torch.stack((ids, weights.gather(1, ids) > 0)).numpy(force=True)
    for i, k in np.argwhere(possible == 0):
        support = weights[i].nonzero().squeeze(1).numpy(force=True)
        drawn[i, k] = support[min(np.searchsorted(support, drawn[i, k]), len(support) - 1)]
    return drawn


def _subtract(rows: Tensor, others: Sequence[Law]) -> None:
    """Take from each row (n, vocab) the probabilities of its law, in place."""
    by_batch: dict[int, list[int]] = {}
    at, ids, probs = [], [], []
    for i, other in enumerate(others):
        if isinstance(other, TorchLaw):
            by_batch.setdefault(id(other.batch), []).append(i)
        else:
            at.append(np.full(len(other.support()), i))
            ids.append(other.support())
            probs.append(other.prob(other.support()))
    for members in by_batch.values():
        laws = [law for i in members if isinstance(law := others[i], TorchLaw)]
        known = laws[0].batch.probs[[law.row for law in laws]]
        rows[members, : known.shape[1]] -= known
    if at:
        where = tuple(torch.tensor(np.concatenate(part), device=rows.device) for part in (at, ids))
        rows[where] -= torch.tensor(np.concatenate(probs), device=rows.device)


class TorchLaw:
    """One row of a `LawBatch` as a `Law`."""

    __slots__ = ("batch", "row")

    def __init__(self, batch: LawBatch, row: int) -> None:
        self.batch = batch
        self.row = row

    @property
    def probs(self) -> Tensor:
        """The probabilities (vocab,) of all ids, where the model runs."""
        return self.batch.probs[self.row]

    def prob(self, ids: Ids) -> Floats:
        probs: Floats = self.batch.prob([self.row], ids[None])[0]
        return probs

    def draw(self, uniforms: Floats) -> Ids:
        ids: Ids = self.batch.draw([self.row], uniforms[None])[0]
        return ids

    def support(self) -> Ids:
        return self.batch.rows_on_host([self.row])[0][0]

    # what a law on a GPU finds there, so that rows of probabilities need not leave it

    def coupled(self, seed: int, position: int) -> int:
        """Argmax of log law + shared noise."""
        return int(self.batch.coupled([self.row], [(seed, position)])[0])

    def draw_above(self, q: Law, uniforms: Floats) -> Ids:
        """Ids (n,) from norm(max(0, p − q))."""
        ids: Ids = self.batch.draw_above([self.row], [q], uniforms[None])[0]
        return ids

    def most_probable(self, count: int) -> tuple[Ids, Floats]:
        """The ids (n,) of the largest probabilities and these, falling."""
        ids, probs = self.batch.most_probable([self.row], count)
        return ids[0], probs[0]


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
