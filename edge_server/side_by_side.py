"""Functions that run side by side on one thread: where one asks, it waits until all others ask, too.

On a GPU every answer costs a transfer, however small. So the sessions of a batch are judged as
greenlets: each goes on until it needs a number from the GPU; then the questions of all are answered
together, and all go on. What asks, a law, needs not know whether others run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from greenlet import getcurrent, greenlet

from device_runtime.protocol.errors import TandemError
from edge_server.failures import DescribedError, describe


class FunctionFailedError(DescribedError):
    """A function failed, as described. Its own error would hold on to all that it had at hand."""


class Question(NamedTuple):
    """Questions of one function about one thing are answered together."""

    answers: Callable[[Any, list[Any]], Sequence[Any]]
    """(about, what was asked) → as many answers; an exception is raised where it was asked."""
    about: Any
    asked: Any


def ask(question: Question) -> Any:
    """The answer: at once, or together with others where functions run side by side."""
    current = getcurrent()
    if isinstance(current, _Run):
        answer = current.hub.switch(question)
    else:
        (answer,) = question.answers(question.about, [question.asked])
    if isinstance(answer, Exception):
        raise answer
    return answer


def side_by_side(functions: Sequence[Callable[[], Any]]) -> list[Callable[[], Any]]:
    """Run them all to their ends; of each, what returns what it gave or raises what it raised."""
    hub = getcurrent()
    runs = [_Run(function, hub) for function in functions]
    asking = [(run, question) for run in runs if (question := run.switch())]
    try:
        while asking:
            answers = _answers([question for _, question in asking])
            asking = [
                (run, question)
                for (run, _), answer in zip(asking, answers, strict=True)
                if (question := run.switch(answer))
            ]
    except BaseException:
        for run, _ in asking:  # nobody will answer them
            run.throw()
        raise
    return [run.result for run in runs]


class _Run(greenlet):
    """One of the functions. `switch` returns its next question, or None at its end."""

    def __init__(self, function: Callable[[], Any], hub: greenlet) -> None:
        super().__init__(parent=hub)
        self.hub = hub
        self._function = [function]  # emptied by its call: what it holds may be large
        self.result: Callable[[], Any]

    def run(self) -> None:
        """Called by the first switch."""
        try:
            self.result = partial(_given, self._function.pop()())
        except TandemError as error:
            self.result = partial(_raised, error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 -- it is told where the result is wanted
            self.result = partial(_raised, FunctionFailedError(describe(error)))


def _given(value: Any) -> Any:
    return value


def _raised(error: Exception) -> Any:
    raise error


def _answers(questions: Sequence[Question]) -> list[Any]:
    """Each one's answer, those that can be answered together in one go."""
    alike: dict[tuple[Any, int], list[int]] = {}
    for i, question in enumerate(questions):
        alike.setdefault((question.answers, id(question.about)), []).append(i)
    found: list[Any] = [None] * len(questions)
    for places in alike.values():
        first = questions[places[0]]
        answers = first.answers(first.about, [questions[i].asked for i in places])
        for i, answer in zip(places, answers, strict=True):
            found[i] = answer
    return found
