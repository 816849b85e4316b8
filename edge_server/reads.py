"""Rows of logits → laws, and what jobs read off them.

On a CPU a job reads its rows when its session takes the result: numpy makes laws one by one fast
enough, and none of rows after a rejection. On a GPU that would wait for the next batch, which has begun
by then. So there all jobs of a batch read at once, side by side: a few transfers of a few numbers for
all of them, and rows of probabilities stay on the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.edge_states import Job, Result
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import LogitsError, Sampling, to_law
from edge_server.law import TorchLaw
from edge_server.sampling import to_laws
from edge_server.side_by_side import Question, ask, side_by_side

Generated = Sequence[int]


class HostRows:
    """Logits (rows, vocab) of a job's last positions, on the host."""

    def __init__(self, logits: Tensor, num_ids: int) -> None:
        self._logits = logits
        self._num_ids = num_ids

    def law(self, row: int, sampling: Sampling, generated: Generated) -> Law:
        return to_law(self._logits[row].numpy(), sampling, generated, self._num_ids)


class BatchRows:
    """A job's rows, whose laws are made together with those of the batch's other jobs."""

    def __init__(self, logits: Tensor, num_ids: int, tokens: Sequence[int]) -> None:
        """tokens: the job's."""
        self.logits = logits
        self.num_ids = num_ids
        self.next_ids = tokens[len(tokens) - len(logits) + 1 :]
        """What the text itself has after each row but the last."""
        self._laws: dict[tuple[int, Sampling], TorchLaw | LogitsError] = {}

    def law(self, row: int, sampling: Sampling, generated: Generated) -> Law:
        """The laws of the rows behind it are made at once, as if the text's own tokens stood."""
        if (row, sampling) not in self._laws:
            counted = self._counted(row, sampling, generated)
            found = ask(Question(_laws, None, _Wanted(self, row, sampling, counted)))
            for later, law in enumerate(found):
                self._laws[row + later, sampling] = law
        law = self._laws[row, sampling]
        if isinstance(law, LogitsError):
            raise LogitsError(law.rows)
        return law

    def _counted(self, row: int, sampling: Sampling, generated: Generated) -> list[Generated]:
        """The tokens that penalties count, for each row from this one on: views of one copy."""
        later = range(len(self.logits) - row)
        if not sampling.penalises:
            return [generated for _ in later]
        every = memoryview(np.array((*generated, *self.next_ids[row:]), np.int64).data)
        return [every[: len(generated) + i] for i in later]


class _Wanted(NamedTuple):
    """The laws of a job's rows from `first` on."""

    rows: BatchRows
    first: int
    sampling: Sampling
    generated: list[Generated]
    """One a row."""


def _laws(_: None, asked: list[_Wanted]) -> list[list[TorchLaw | LogitsError]]:
    """Of all rows of all jobs, with the probability of the text's next token: it is asked first."""
    made = iter(
        _made(
            torch.cat([want.rows.logits[want.first :] for want in asked]),
            [want.sampling for want in asked for _ in want.generated],
            [generated for want in asked for generated in want.generated],
            asked[0].rows.num_ids,
        )
    )
    found = [[next(made) for _ in want.generated] for want in asked]
    judged: list[tuple[TorchLaw, int]] = []
    for want, laws in zip(asked, found, strict=True):
        sound = [law for law in laws if isinstance(law, TorchLaw)]
        for law, token_id in zip(laws, want.rows.next_ids[want.first :], strict=False):
            if isinstance(law, TorchLaw):
                law.following = [other for other in sound if other.row > law.row]
                judged.append((law, token_id))
    _know_probs(judged)
    return found


def _know_probs(judged: Sequence[tuple[TorchLaw, int]]) -> None:
    """Fetch the probability of one token of each law."""
    if not judged:
        return
    laws, token_ids = zip(*judged, strict=True)
    ids = np.array(token_ids)[:, None]
    probs = laws[0].batch.prob([law.row for law in laws], ids)
    for law, own_ids, own_probs in zip(laws, ids, probs, strict=True):
        law.know("prob", own_ids.tobytes(), own_probs)


def _made(
    logits: Tensor, samplings: Sequence[Sampling], generated: Sequence[Generated], num_ids: int
) -> list[TorchLaw | LogitsError]:
    """A law for each row, or why there is none: the others go on without it."""
    if not len(logits):
        return []
    try:
        batch = to_laws(logits, samplings, generated, num_ids)
    except LogitsError as error:
        sound = [row for row in range(len(logits)) if row not in error.rows]
        own = [samplings[row] for row in sound], [generated[row] for row in sound]
        laws = dict(zip(sound, _made(logits[sound], *own, num_ids), strict=True))
        # Not the error itself, which holds on to the tensors through its traceback.
        return [laws.get(row, LogitsError()) for row in range(len(logits))]
    return [TorchLaw(batch, row) for row in range(len(batch))]


def read_rows(
    logits: Sequence[Tensor], jobs: Sequence[Job], num_ids: int, *, together: bool
) -> list[Result]:
    """What jobs read off their logits (rows, vocab): all now, or each when its result is called."""
    if not together:
        return [
            partial(job.read, HostRows(own, num_ids)) for job, own in zip(jobs, logits, strict=True)
        ]
    return side_by_side(
        [
            partial(job.read, BatchRows(own, num_ids, job.tokens))
            for job, own in zip(jobs, logits, strict=True)
        ]
    )
