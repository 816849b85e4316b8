"""Rows of logits → laws and answers. On a GPU: for a whole batch, before its sessions are told.

Sessions judge one after another, on another thread, while the GPU is busy with the next batch; a law
that asked the GPU then would wait for it. So the engine makes all laws of a batch at once and tries
what will be done with each job's rows (`edge_server.answers`): how its block is judged, and what else
the job says will be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.edge_states import Job, Rows
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import LogitsError, Sampling, to_law
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.wire import Writer
from edge_server.answers import ForeseenLaw, Question, Trials
from edge_server.law import LawBatch, to_laws

Generated = Sequence[int]


@dataclass(frozen=True, slots=True)
class AskingJob(Job):
    """A job of whose rows more is asked than its judging says."""

    asks: Callable[[Rows], object] | None = field(default=None, compare=False)
    """Pure; asks the rows for all that will be asked of them."""


class LogitRows:
    """Logits (rows, vocab) of a job's last positions; a law is made when it is asked for."""

    def __init__(self, logits: Tensor, num_ids: int) -> None:
        self.logits = logits
        self.num_ids = num_ids

    def law(self, row: int, sampling: Sampling, generated: Generated) -> Law:
        if self.logits.is_cuda:
            rows = self.logits[row : row + 1]
            return to_laws(rows, [sampling], [generated], self.num_ids)[0]
        # Row by row numpy is faster than torch, and rows after a rejection are never asked for.
        return to_law(self.logits[row].numpy(), sampling, generated, self.num_ids)


class ForeseenRows:
    """A job's rows, whose laws are made together with those of the batch's other jobs."""

    def __init__(self, plain: LogitRows, trials: Trials) -> None:
        self.logits = plain.logits
        self.num_ids = plain.num_ids
        self._trials = trials
        self._laws: dict[tuple[int, Sampling, int], ForeseenLaw | LogitsError] = {}

    def law(self, row: int, sampling: Sampling, generated: Generated) -> Law:
        key = _law_key(row, sampling, generated)
        if key not in self._laws:
            self._trials.ask(self.question(row, sampling, generated))
        found = self._laws[key]
        if isinstance(found, LogitsError):
            raise LogitsError(found.rows)
        return found

    def question(self, row: int, sampling: Sampling, generated: Generated) -> Question:
        """A law to be made."""
        return Question("law", self, (row, sampling, generated), None, row)

    def know(
        self, kind: str, value: tuple[int, Sampling, Generated], answer: ForeseenLaw | LogitsError
    ) -> None:
        """Take over a law, or why there is none."""
        self._laws[_law_key(*value)] = answer

    def laws_of(self, judging: Judging) -> list[ForeseenLaw]:
        """Those that judge a block, up to the first that does not exist."""
        found: list[ForeseenLaw] = []
        for value in _judged(judging):
            law = self._laws.get(_law_key(*value))
            if not isinstance(law, ForeseenLaw):
                break
            found.append(law)
        return found


def _law_key(row: int, sampling: Sampling, generated: Generated) -> tuple[int, Sampling, int]:
    # The tokens that penalties count at a row differ in number alone.
    return row, sampling, len(generated) if sampling.penalises else 0


def _judged(judging: Judging) -> list[tuple[int, Sampling, Generated]]:
    """Row, parameters and counted tokens of each law that a block may be judged by."""
    counted, sampling = judging.generated(), judging.sampling
    return [
        (judging.skipped + i, sampling, counted[: judging.num_generated(i)])
        for i in range(len(judging.block) + 1)
    ]


def foresee(rows: Sequence[LogitRows], jobs: Sequence[Job]) -> list[Rows]:
    """Rows that will find the answers; those of which nothing is known to be asked, as they are."""
    result: list[Rows] = list(rows)
    trials = _batch_trials()
    judged: list[tuple[ForeseenRows, Judging]] = []
    wishes: list[Callable[[], object]] = []
    for i, (plain, job) in enumerate(zip(rows, jobs, strict=True)):
        judging, asks = job.judging, job.asks if isinstance(job, AskingJob) else None
        if judging is not None and judging.num_rows != len(plain.logits):
            judging = None
        if judging is None and asks is None:
            continue
        result[i] = found = ForeseenRows(plain, trials)
        if judging is not None:
            judged.append((found, judging))
            wishes.append(partial(_judge, judging, found))
        if asks is not None:
            wishes.append(partial(asks, found))
    if wishes:
        _know_likely(trials, judged)
        trials.run(wishes)
    return result


def _know_likely(trials: Trials, judged: Sequence[tuple[ForeseenRows, Judging]]) -> None:
    """The laws that blocks may be judged by, and what most schemes ask of them first."""
    trials.answer(
        [found.question(*value) for found, judging in judged for value in _judged(judging)]
    )
    questions = []
    for found, judging in judged:
        laws = found.laws_of(judging)
        for i, law in enumerate(laws):
            law.following = laws[i + 1 :]
        questions += [
            law.question("prob", np.array([drafted.token_id]))
            for law, drafted in zip(laws, judging.block, strict=False)
        ]
    trials.answer(questions)


def _judge(judging: Judging, rows: ForeseenRows) -> None:
    judgement = judging.judge(rows)
    if judgement.rejection is not None:  # a scheme may read the law as late as here
        vocab = Vocabulary(rows.num_ids)
        judging.scheme.write_rejection(Writer(), judgement.rejection, vocab)


def draw_drafts(rows: Sequence[LogitRows], judgings: Sequence[Judging]) -> list[Judging]:
    """Each with one more drafted token, from the law of its only row: all laws at once."""
    trials = _batch_trials()
    found = [ForeseenRows(plain, trials) for plain in rows]
    drafted: dict[int, Judging] = {}

    def draft(i: int) -> None:
        judging = judgings[i]
        drafted[i] = judging.drafted(found[i].law(0, judging.sampling, judging.generated()))

    trials.answer(
        [own.question(0, j.sampling, j.generated()) for own, j in zip(found, judgings, strict=True)]
    )
    trials.run([partial(draft, i) for i in range(len(judgings))])
    for i in range(len(judgings)):
        if i not in drafted:  # a law that does not exist says so here
            draft(i)
    return [drafted[i] for i in range(len(judgings))]


def _batch_trials() -> Trials:
    """Trials that can make laws."""

    def make_laws(asked: Sequence[Question]) -> None:
        if not asked:
            return
        try:
            batch = _laws_of(asked)
        except LogitsError as error:
            # They harm their own jobs; the others go on without them.
            bad = [asked[i] for i in error.rows]
            for question in bad:
                question.asker.know("law", question.value, LogitsError())
            make_laws([question for question in asked if question not in bad])
            return
        for row, question in enumerate(asked):
            question.asker.know("law", question.value, ForeseenLaw(batch, row, trials))

    trials = Trials({"law": make_laws})
    return trials


def _laws_of(asked: Sequence[Question]) -> LawBatch:
    """The laws of some rows of some jobs; LogitsError names those that no law follows from."""
    runs: list[tuple[ForeseenRows, int, int]] = []  # of rows that stand together: one slice each
    for question in asked:
        own, row = question.asker, question.row
        assert isinstance(own, ForeseenRows)
        if runs and runs[-1][0] is own and runs[-1][2] == row:
            runs[-1] = own, runs[-1][1], row + 1
        else:
            runs.append((own, row, row + 1))
    logits = torch.cat([own.logits[first:end] for own, first, end in runs])
    samplings = [question.value[1] for question in asked]
    generated = [question.value[2] for question in asked]
    return to_laws(logits, samplings, generated, runs[0][0].num_ids)
