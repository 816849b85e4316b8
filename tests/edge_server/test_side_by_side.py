"""Questions of functions that run side by side are answered together, and each gets its own answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from edge_server.side_by_side import Question, ask, side_by_side

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


def test_alone_a_question_is_answered_at_once() -> None:
    asked = Asked()
    assert asking(asked, 1, 2)() == [-1, -2]
    assert asked.groups == [[1], [2]]


def test_what_one_raises_is_its_own() -> None:
    asked = Asked()
    results = side_by_side([asking(asked, 1, -7, 3), asking(asked, 4, 5), partial(int, "x")])
    with pytest.raises(ValueError, match="not -7"):
        results[0]()
    assert results[1]() == [-4, -5]
    with pytest.raises(ValueError, match="invalid literal"):
        results[2]()


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
