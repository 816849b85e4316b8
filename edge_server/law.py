"""Laws on tensors, where the model runs; probabilities and draws that are asked for cross to the host.

A `LawBatch` answers for many rows at once. A `TorchLaw`, one row of it, asks for its numbers one kind
at a time; those of laws that are asked side by side (`edge_server.side_by_side`) cross together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.law import Floats, Ids, Law
from edge_server.noise import shared_gumbel
from edge_server.side_by_side import Question, ask


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
        own = torch.tensor(rows, device=columns.device)[:, None]
        probs = self.probs[own, inside]
        known: Floats = probs.masked_fill(columns != inside, 0.0).numpy(force=True)
        return known

    def draw(self, rows: Sequence[int], uniforms: Floats) -> tuple[Ids, Floats]:
        """Ids (n, k) by inverse CDF in id order from uniforms (n, k) in [0, 1), one law a row.

        Their probabilities (n, k) come along: who draws asks for them next.
        """
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
        drawn, _ = _drawn(torch.where(is_empty, own, left), uniforms)
        return drawn

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


def _drawn(weights: Tensor, uniforms: Floats) -> tuple[Ids, Floats]:
    """Ids (n, k) by inverse CDF in id order from weights (n, vocab), and their weights (n, k)."""
    cdf = weights.cumsum(1)
    goals = torch.tensor(uniforms, device=cdf.device) * cdf[:, -1:]
    ids = torch.searchsorted(cdf, goals, right=True).clamp_(max=cdf.shape[1] - 1)
    # One transfer for both: ids are exact as doubles.
    both: Floats = torch.stack((ids.to(weights.dtype), weights.gather(1, ids))).numpy(force=True)
    drawn, found = both[0].astype(np.int64), both[1]
    # A scan in parallel may round upwards where the probability is 0, and a draw end there.
    for i, k in np.argwhere(found == 0):
        support = weights[i].nonzero().squeeze(1).numpy(force=True)
        drawn[i, k] = support[min(np.searchsorted(support, drawn[i, k]), len(support) - 1)]
        found[i, k] = weights[i, drawn[i, k]].item()
    return drawn, found


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
    """One row of a `LawBatch`. What was asked, or came with it, is not asked again."""

    __slots__ = ("_known", "batch", "following", "row")

    def __init__(self, batch: LawBatch, row: int) -> None:
        self.batch = batch
        self.row = row
        self.following: Sequence[TorchLaw] = ()
        """Of the text's next tokens, and of the same batch: they may be asked the same."""
        self._known: dict[tuple[str, Any], Any] = {}

    @property
    def probs(self) -> Tensor:
        """The probabilities (vocab,) of all ids, where the model runs."""
        return self.batch.probs[self.row]

    def know(self, kind: str, asked: Any, answer: Any) -> None:
        """Remember what came with something else; asked: bytes where it is an array."""
        self._known[kind, asked] = answer

    def prob(self, ids: Ids) -> Floats:
        key = "prob", ids.tobytes()
        if key not in self._known:
            self._known[key] = ask(Question(_probs, self.batch, (self.row, ids)))
        probs: Floats = self._known[key]
        return probs

    def draw(self, uniforms: Floats) -> Ids:
        question = Question(_draws, self.batch, (self.row, uniforms))
        return self._ids_with_probs("draw", uniforms.tobytes(), question)

    def support(self) -> Ids:
        question = Question(LawBatch.rows_on_host, self.batch, self.row)
        return self._ids_with_probs("support", None, question)

    def _ids_with_probs(self, kind: str, asked: Any, question: Question) -> Ids:
        if (kind, asked) not in self._known:
            found, probs = ask(question)
            self.know(kind, asked, found)
            self.know("prob", found.tobytes(), probs)
        ids: Ids = self._known[kind, asked]
        return ids

    # what a law on a GPU finds there, so that rows of probabilities need not leave it

    def coupled(self, seed: int, position: int) -> int:
        """Argmax of log law + shared noise; those of the laws that follow come along."""
        if ("coupled", (seed, position)) not in self._known:
            laws = [self, *self.following]
            places = [(seed, position + i) for i in range(len(laws))]
            ids = ask(Question(_coupled, self.batch, ([law.row for law in laws], places)))
            for law, place, token_id in zip(laws, places, ids, strict=True):
                law.know("coupled", place, token_id)
        return int(self._known["coupled", (seed, position)])

    def draw_above(self, q: Law, uniforms: Floats) -> Ids:
        """Ids (n,) from norm(max(0, p − q))."""
        ids: Ids = ask(Question(_draws_above, self.batch, (self.row, q, uniforms)))
        return ids

    def most_probable(self, count: int) -> tuple[Ids, Floats]:
        """The ids (n,) of the largest probabilities and these, falling."""
        best: tuple[Ids, Floats] = ask(Question(_most_probable, self.batch, (self.row, count)))
        return best


def _probs(batch: LawBatch, asked: list[tuple[int, Ids]]) -> list[Floats]:
    rows, ids = zip(*asked, strict=True)
    return _cut(batch.prob(rows, _padded(ids)), ids)


def _draws(batch: LawBatch, asked: list[tuple[int, Floats]]) -> list[tuple[Ids, Floats]]:
    rows, uniforms = zip(*asked, strict=True)
    ids, probs = batch.draw(rows, _padded(uniforms))
    return list(zip(_cut(ids, uniforms), _cut(probs, uniforms), strict=True))


def _coupled(
    batch: LawBatch, asked: list[tuple[list[int], list[tuple[int, int]]]]
) -> list[list[int]]:
    rows = [row for own, _ in asked for row in own]
    places = [place for _, own in asked for place in own]
    found = iter(batch.coupled(rows, places).tolist())
    return [[next(found) for _ in own] for own, _ in asked]


def _draws_above(batch: LawBatch, asked: list[tuple[int, Law, Floats]]) -> list[Ids]:
    rows, others, uniforms = zip(*asked, strict=True)
    return _cut(batch.draw_above(rows, others, _padded(uniforms)), uniforms)


def _most_probable(batch: LawBatch, asked: list[tuple[int, int]]) -> list[tuple[Ids, Floats]]:
    rows, counts = zip(*asked, strict=True)
    ids, probs = batch.most_probable(rows, max(counts))
    return [(own[:n], of[:n]) for own, of, n in zip(ids, probs, counts, strict=True)]


def _padded(values: Sequence[np.ndarray[Any, Any]]) -> Any:
    """Rows (n, longest) of arrays; shorter ones end with zeros."""
    longest = max(len(value) for value in values)
    rows = np.zeros((len(values), longest), values[0].dtype)
    for row, value in zip(rows, values, strict=True):
        row[: len(value)] = value
    return rows


def _cut(rows: Any, values: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
    """The rows without what `_padded` added."""
    return [row[: len(value)] for row, value in zip(rows, values, strict=True)]
