"""Rows of logits → laws and answers. On a GPU: for a whole batch, before its sessions are told.

Sessions judge one after another, on another thread, while the GPU is busy with the next batch; a law
that asked the GPU then would wait for it. So the engine makes all laws of a batch at once and tries
every session's judgement: where an answer is missing the trial stops, the missing answers of all
sessions are fetched together, and it is tried again. Judging is pure, so trying changes nothing. A
round takes two or three transfers of a few numbers per session; rows of probabilities stay where
they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from device_runtime.protocol.edge_states import Rows
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.law import Floats, Ids, Law
from device_runtime.protocol.sampling import LogitsError, Sampling, to_law
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.wire import Writer
from edge_server.failures import describe
from edge_server.law import LawBatch, to_laws

MAX_TRIALS = 5
"""After so many the rest is fetched when it is asked for; all schemes that ship need fewer."""

logger = logging.getLogger(__name__)


class LogitRows:
    """Logits (rows, vocab) of a job's last positions; a law is made when it is asked for."""

    def __init__(self, logits: Tensor, num_ids: int) -> None:
        self.logits = logits
        self.num_ids = num_ids

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        if self.logits.is_cuda:
            rows = self.logits[row : row + 1]
            return to_laws(rows, [sampling], [generated], self.num_ids)[0]
        # Row by row numpy is faster than torch, and rows after a rejection are never asked for.
        return to_law(self.logits[row].numpy(), sampling, generated, self.num_ids)


class _MissingError(Exception):
    """A trial asked for an answer that is not there yet."""


@dataclass(slots=True, eq=False)
class _Question:
    """What a trial asked: its kind, the row of the batch, and the arguments."""

    kind: str
    row: int
    value: Any
    law: ForeseenLaw


class ForeseenLaw:
    """One row of a batch as a `Law` that remembers its answers."""

    __slots__ = ("_answers", "_batch", "_questions", "_row", "following")

    def __init__(self, batch: LawBatch, row: int, questions: list[_Question]) -> None:
        """questions: where the first missing answer of a trial is put down."""
        self._batch = batch
        self._row = row
        self._questions: list[_Question] | None = questions
        self._answers: dict[tuple[str, bytes], Any] = {}
        self.following: list[ForeseenLaw] = []
        """The laws of the block's later tokens: what is asked of this one will be asked of them."""

    def settle(self) -> None:
        """No more trials: from now on missing answers are fetched one by one."""
        self._questions = None

    def know(self, kind: str, value: Any, answer: Any) -> None:
        """Remember an answer."""
        self._answers[kind, _key(value)] = answer

    def _ask(self, kind: str, value: Any) -> Any:
        known = self._answers.get((kind, _key(value)))
        if known is None:
            question = _Question(kind, self._row, value, self)
            if self._questions is not None:
                self._questions.append(question)
                raise _MissingError
            answer_all(self._batch, [question])
            known = self._answers[kind, _key(value)]
        return known

    def prob(self, ids: Ids) -> Floats:
        probs: Floats = self._ask("prob", ids)
        return probs

    def draw(self, uniforms: Floats) -> Ids:
        ids: Ids = self._ask("draw", uniforms)
        return ids

    def support(self) -> Ids:
        ids: Ids = self._ask("support", b"")
        return ids

    def coupled(self, seed: int, position: int) -> int:
        """Argmax of log law + shared noise, found where the law is."""
        return int(self._ask("coupled", (seed, position)))


def _key(value: Any) -> bytes:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()


class _ForeseenRows:
    """A job's rows: laws as judged are there already, others are made when asked for."""

    def __init__(self, plain: LogitRows, judging: Judging, laws: list[ForeseenLaw]) -> None:
        self._plain = plain
        self._judging = judging
        self.laws = laws
        self.vocab = Vocabulary(plain.num_ids)

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        i = row - self._judging.skipped
        judged = self._judging
        expected = judged.num_generated(i) if judged.sampling.penalises else 0
        if i < 0 or sampling != judged.sampling or len(generated) != expected:
            return self._plain.law(row, sampling, generated)
        return self.laws[i]


def foresee(rows: Sequence[LogitRows], judgings: Sequence[Judging | None]) -> list[Rows]:
    """Rows whose judging will find its answers; those without one, or with bad logits, as they are."""
    todo = [
        (i, judging)
        for i, judging in enumerate(judgings)
        if judging is not None and judging.num_rows == len(rows[i].logits)
    ]
    result: list[Rows] = list(rows)
    if not todo:
        return result
    try:
        batch = _laws_of([(rows[i], judging) for i, judging in todo])
    except LogitsError:
        return result  # whose they are shows when each is judged
    questions: list[_Question] = []
    tried: list[tuple[Judging, _ForeseenRows]] = []
    start = 0
    for i, judging in todo:
        count = len(judging.block) + 1
        laws = [ForeseenLaw(batch, start + j, questions) for j in range(count)]
        for j, law in enumerate(laws):
            law.following = laws[j + 1 :]
        result[i] = foreseen = _ForeseenRows(rows[i], judging, laws)
        tried.append((judging, foreseen))
        start += count
    _know_drafted(batch, tried)
    _try_all(batch, tried, questions)
    return result


def _laws_of(jobs: Sequence[tuple[LogitRows, Judging]]) -> LawBatch:
    logits = torch.cat([rows.logits[judging.skipped :] for rows, judging in jobs])
    samplings, generated = [], []
    for _, judging in jobs:
        counted = judging.generated()
        for i in range(len(judging.block) + 1):
            samplings.append(judging.sampling)
            generated.append(counted[: judging.num_generated(i)])
    return to_laws(logits, samplings, generated, jobs[0][0].num_ids)


def _know_drafted(batch: LawBatch, tried: Sequence[tuple[Judging, _ForeseenRows]]) -> None:
    """The probabilities of the drafted tokens: most schemes ask for them first."""
    questions = [
        _Question("prob", law._row, np.array([drafted.token_id]), law)  # noqa: SLF001
        for judging, rows in tried
        for law, drafted in zip(rows.laws, judging.block, strict=False)
    ]
    answer_all(batch, questions)


def _try_all(
    batch: LawBatch,
    tried: Sequence[tuple[Judging, _ForeseenRows]],
    questions: list[_Question],
) -> None:
    waiting = list(tried)
    for _ in range(MAX_TRIALS):
        waiting = [(judging, rows) for judging, rows in waiting if _lacks_answers(judging, rows)]
        if not waiting:
            break
        answer_all(batch, questions)
        questions.clear()
    for _, rows in tried:
        for law in rows.laws:
            law.settle()


def _lacks_answers(judging: Judging, rows: _ForeseenRows) -> bool:
    try:
        judgement = judging.judge(rows)
        if judgement.rejection is not None:  # a scheme may read the law as late as here
            judging.scheme.write_rejection(Writer(), judgement.rejection, rows.vocab)
    except _MissingError:
        return True
    except Exception as error:  # noqa: BLE001 -- it will show again where its session is judged
        logger.debug("a trial failed: %s", describe(error))
    return False


def answer_all(batch: LawBatch, questions: Sequence[_Question]) -> None:
    """Fetch the answers, those of a kind together."""
    by_kind: dict[str, list[_Question]] = {}
    for question in questions:
        by_kind.setdefault(question.kind, []).append(question)
    for kind, asked in by_kind.items():
        _ANSWER[kind](batch, asked)


def _answer_prob(batch: LawBatch, asked: Sequence[_Question]) -> None:
    probs = batch.prob([question.row for question in asked], _padded([q.value for q in asked]))
    for question, row in zip(asked, probs, strict=True):
        question.law.know("prob", question.value, row[: len(question.value)])


def _answer_draw(batch: LawBatch, asked: Sequence[_Question]) -> None:
    """Draws, and their probabilities, which are asked for next."""
    rows = [question.row for question in asked]
    drawn = batch.draw(rows, _padded([question.value for question in asked]))
    probs = batch.prob(rows, drawn)
    for question, ids, weights in zip(asked, drawn, probs, strict=True):
        count = len(question.value)
        question.law.know("draw", question.value, ids[:count])
        question.law.know("prob", ids[:count], weights[:count])


def _answer_support(batch: LawBatch, asked: Sequence[_Question]) -> None:
    """Whole laws, for schemes that need them: the edge draws from a residual or sends a row."""
    for question in asked:
        ids = batch[question.row].support()
        question.law.know("support", b"", ids)
        question.law.know("prob", ids, batch.prob([question.row], ids[None])[0])


def _answer_coupled(batch: LawBatch, asked: Sequence[_Question]) -> None:
    """For the rest of the block, too: if this token stands, the next one is asked for."""
    wanted = [
        (law, row, (question.value[0], question.value[1] + ahead))
        for question in asked
        for ahead, (law, row) in enumerate(
            [(question.law, question.row), *((law, law._row) for law in question.law.following)]  # noqa: SLF001
        )
    ]
    ids = batch.coupled([row for _, row, _ in wanted], [place for _, _, place in wanted])
    for (law, _, place), token_id in zip(wanted, ids.tolist(), strict=True):
        law.know("coupled", place, token_id)


_ANSWER = {
    "prob": _answer_prob,
    "draw": _answer_draw,
    "support": _answer_support,
    "coupled": _answer_coupled,
}


def _padded(values: Sequence[np.ndarray[Any, Any]]) -> Any:
    """Rows (n, longest) of arrays; shorter ones end with zeros."""
    longest = max(len(value) for value in values)
    rows = np.zeros((len(values), longest), values[0].dtype)
    for row, value in zip(rows, values, strict=True):
        row[: len(value)] = value
    return rows
