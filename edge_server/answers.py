"""What a batch's sessions ask of its laws, fetched for all of them together.

Judging is pure, so it can be tried: a trial that asks for an answer which is not there yet stops, the
missing answers of all trials are fetched at once, and it is tried again. So a batch takes a few
transfers of a few numbers per session, and rows of probabilities stay where the model runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from device_runtime.protocol.law import Floats, Ids, Law
from edge_server.failures import describe
from edge_server.law import LawBatch, TorchLaw

MAX_TRIALS = 8
"""After so many the rest is fetched when it is asked for; all schemes that ship need fewer."""

logger = logging.getLogger(__name__)


class MissingError(Exception):
    """A trial asked for an answer that is not there yet."""


class Asker(Protocol):
    """Remembers answers."""

    def know(self, kind: str, value: Any, answer: Any) -> None:
        """The answer to a question of this kind."""
        ...


@dataclass(slots=True, eq=False)
class Question:
    """What a trial asked."""

    kind: str
    asker: Asker
    value: Any
    batch: LawBatch | None
    """Whose laws know the answer; None where a law is to be made."""
    row: int = 0


Fetch = Callable[[Sequence[Question]], None]
"""Answers questions of one kind and one batch."""


class Trials:
    """The questions of one batch's trials. Once they are over, answers are fetched one by one."""

    def __init__(self, fetch: dict[str, Fetch]) -> None:
        """fetch: kinds of question beside those that a `ForeseenLaw` asks."""
        self._fetch = _FETCH | fetch
        self._asked: list[Question] = []
        self._running = True

    def ask(self, question: Question) -> None:
        """MissingError while trials run; later the asker knows the answer on return."""
        if self._running:
            self._asked.append(question)
            raise MissingError
        self.answer([question])

    def answer(self, questions: Sequence[Question]) -> None:
        """Fetch the answers, those of a kind together."""
        alike: dict[tuple[str, int], list[Question]] = {}
        for question in questions:
            alike.setdefault((question.kind, id(question.batch)), []).append(question)
        for (kind, _), asked in alike.items():
            self._fetch[kind](asked)

    def run(self, trials: Sequence[Callable[[], object]]) -> None:
        """Try until each has found its answers, or fails for a reason of its own."""
        waiting = list(trials)
        for _ in range(MAX_TRIALS):
            waiting = [trial for trial in waiting if _lacks_answers(trial)]
            if not waiting:
                break
            asked, self._asked = self._asked, []
            self.answer(asked)
        self._asked = []
        self._running = False


def _lacks_answers(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except MissingError:
        return True
    except Exception as error:  # noqa: BLE001 -- it will show again where its session is judged
        logger.debug("a trial failed: %s", describe(error))
    return False


class ForeseenLaw(TorchLaw):
    """One row of a batch as a `Law` that remembers its answers."""

    __slots__ = ("_answers", "_trials", "following")

    def __init__(self, batch: LawBatch, row: int, trials: Trials) -> None:
        super().__init__(batch, row)
        self._trials = trials
        self._answers: dict[tuple[str, bytes], Any] = {}
        self.following: Sequence[ForeseenLaw] = ()
        """The laws of the block's later tokens: what is asked of this one will be asked of them."""

    def know(self, kind: str, value: Any, answer: Any) -> None:
        """Remember an answer."""
        self._answers[kind, _key(value)] = answer

    def question(self, kind: str, value: Any) -> Question:
        """To be asked beforehand."""
        return Question(kind, self, value, self.batch, self.row)

    def _ask(self, kind: str, value: Any) -> Any:
        known = self._answers.get((kind, _key(value)))
        if known is None:
            self._trials.ask(self.question(kind, value))
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
        return int(self._ask("coupled", (seed, position)))

    def draw_above(self, q: Law, uniforms: Floats) -> Ids:
        ids: Ids = self._ask("draw_above", _AboveQ(q, uniforms))
        return ids

    def most_probable(self, count: int) -> tuple[Ids, Floats]:
        best: tuple[Ids, Floats] = self._ask("most_probable", count)
        return best


@dataclass(frozen=True, slots=True)
class _AboveQ:
    """A draw from norm(max(0, p − q)): a law p is asked with the one q that its token came from."""

    q: Law
    uniforms: Floats

    def tobytes(self) -> bytes:
        return self.uniforms.tobytes()


def _key(value: Any) -> bytes:
    return value.tobytes() if isinstance(value, (np.ndarray, _AboveQ)) else repr(value).encode()


def _batch(asked: Sequence[Question]) -> tuple[LawBatch, list[int]]:
    """The batch that all of them ask, and their rows."""
    batch = asked[0].batch
    assert batch is not None
    return batch, [question.row for question in asked]


def _fetch_prob(asked: Sequence[Question]) -> None:
    batch, rows = _batch(asked)
    probs = batch.prob(rows, _padded([question.value for question in asked]))
    for question, row in zip(asked, probs, strict=True):
        question.asker.know("prob", question.value, row[: len(question.value)])


def _fetch_draw(asked: Sequence[Question]) -> None:
    """Draws, and their probabilities, which are asked for next."""
    batch, rows = _batch(asked)
    drawn = batch.draw(rows, _padded([question.value for question in asked]))
    probs = batch.prob(rows, drawn)
    for question, ids, weights in zip(asked, drawn, probs, strict=True):
        count = len(question.value)
        question.asker.know("draw", question.value, ids[:count])
        question.asker.know("prob", ids[:count], weights[:count])


def _fetch_draw_above(asked: Sequence[Question]) -> None:
    batch, rows = _batch(asked)
    uniforms = _padded([question.value.uniforms for question in asked])
    drawn = batch.draw_above(rows, [question.value.q for question in asked], uniforms)
    for question, ids in zip(asked, drawn, strict=True):
        question.asker.know("draw_above", question.value, ids[: len(question.value.uniforms)])


def _fetch_support(asked: Sequence[Question]) -> None:
    """Whole laws, for schemes that send them."""
    batch, rows = _batch(asked)
    for question, (ids, probs) in zip(asked, batch.rows_on_host(rows), strict=True):
        question.asker.know("support", b"", ids)
        question.asker.know("prob", ids, probs)


def _fetch_coupled(asked: Sequence[Question]) -> None:
    """For the rest of the block, too: if this token stands, the next one is asked for."""
    batch, _ = _batch(asked)
    wanted = []
    for question in asked:
        seed, position = question.value
        assert isinstance(question.asker, ForeseenLaw)
        laws = [question.asker, *question.asker.following]
        wanted += [(law, (seed, position + ahead)) for ahead, law in enumerate(laws)]
    ids = batch.coupled([law.row for law, _ in wanted], [place for _, place in wanted])
    for (law, place), token_id in zip(wanted, ids.tolist(), strict=True):
        law.know("coupled", place, token_id)


def _fetch_most_probable(asked: Sequence[Question]) -> None:
    batch, rows = _batch(asked)
    ids, probs = batch.most_probable(rows, max(question.value for question in asked))
    for question, best, weights in zip(asked, ids, probs, strict=True):
        count = question.value
        question.asker.know("most_probable", count, (best[:count], weights[:count]))


_FETCH: dict[str, Fetch] = {
    "prob": _fetch_prob,
    "draw": _fetch_draw,
    "draw_above": _fetch_draw_above,
    "support": _fetch_support,
    "coupled": _fetch_coupled,
    "most_probable": _fetch_most_probable,
}


def _padded(values: Sequence[np.ndarray[Any, Any]]) -> Any:
    """Rows (n, longest) of arrays; shorter ones end with zeros."""
    longest = max(len(value) for value in values)
    rows = np.zeros((len(values), longest), values[0].dtype)
    for row, value in zip(rows, values, strict=True):
        row[: len(value)] = value
    return rows
