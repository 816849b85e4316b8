"""Questions of functions that run side by side are answered together, and each gets its own answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from device_runtime.protocol.errors import ErrorCode, RemoteError
from edge_server.side_by_side import FunctionFailedError, Question, ask, side_by_side

ABOUT = object()


class Asked:
    """Answers with the negative; remembers what was asked together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def answers(self, about: object, asked: list[int]) -> list[object]:
        assert about is ABOUT
        self.groups.append(list(asked))
        return [ValueError(f"not {number}") if number < 0 else -number for number in asked]


def asking(asked: Asked, *numbers: int) -> Callable[[], list[int]]:
    def run() -> list[int]:
        return [ask(Question(asked.answers, ABOUT, number)) for number in numbers]

    return run


def test_each_goes_on_with_its_own_answers() -> None:
    asked = Asked()
    results = side_by_side(
        [asking(asked, 1, 2, 3), asking(asked), asking(asked, 4), asking(asked, 5, 6)]
    )
    assert [result() for result in results] == [[-1, -2, -3], [], [-4], [-5, -6]]
    assert asked.groups == [[1, 4, 5], [2, 6], [3]]


def test_what_differs_is_answered_apart() -> None:
    one, other = Asked(), Asked()
    results = side_by_side([asking(one, 1), asking(other, 2), asking(one, 3)])
    assert [result() for result in results] == [[-1], [-2], [-3]]
    assert (one.groups, other.groups) == ([[1, 3]], [[2]])


def test_the_same_question_about_two_things_is_answered_apart() -> None:
    def answers(about: dict[str, int], asked: list[str]) -> list[int]:
        return [about[key] for key in asked]

    one, other = {"a": 1, "b": 2}, {"a": 10, "b": 20}
    wishes = [(one, "a"), (other, "b"), (one, "b"), (other, "a")]
    results = side_by_side([partial(ask, Question(answers, *wish)) for wish in wishes])
    assert [result() for result in results] == [1, 20, 2, 10]


def test_alone_a_question_is_answered_at_once() -> None:
    asked = Asked()
    assert asking(asked, 1, 2)() == [-1, -2]
    assert asked.groups == [[1], [2]]


def test_what_one_raises_is_its_own() -> None:
    asked = Asked()
    results = side_by_side([asking(asked, 1, -7, 3), asking(asked, 4, 5), partial(int, "x")])
    with pytest.raises(FunctionFailedError, match=r"ValueError at .*side_by_side"):
        results[0]()
    assert results[1]() == [-4, -5]
    with pytest.raises(FunctionFailedError, match="ValueError at"):
        results[2]()


def test_errors_that_clients_are_told_stay_what_they_are() -> None:
    def refuse() -> None:
        raise RemoteError(ErrorCode.TOO_LARGE, "too much")

    (result,) = side_by_side([refuse])
    with pytest.raises(RemoteError, match="too much") as refused:
        result()
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_an_error_may_be_caught_where_it_was_asked() -> None:
    asked = Asked()

    def careful() -> int:
        try:
            return int(ask(Question(asked.answers, ABOUT, -1)))
        except ValueError:
            return int(ask(Question(asked.answers, ABOUT, 9)))

    (result,) = side_by_side([careful])
    assert result() == -9


def test_where_answering_fails_all_of_it_fails_and_every_function_ends() -> None:
    ended: list[int] = []

    def broken(_: object, asked: list[int]) -> list[int]:
        raise MemoryError

    def run(number: int) -> None:
        try:
            ask(Question(broken, None, number))
        finally:
            ended.append(number)

    with pytest.raises(MemoryError):
        side_by_side([partial(run, 1), partial(run, 2)])
    assert sorted(ended) == [1, 2]
