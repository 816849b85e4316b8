"""Text on standard output: whole lines, and warnings between them."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from device_runtime.protocol.errors import TandemError
from device_runtime.shown import show
from device_runtime.transcript import Piece
from device_runtime.turn import Origin


@pytest.mark.parametrize(
    ("texts", "is_whole", "shown"),
    [([], False, ""), (["ab", "c"], False, "abc\n"), (["ab"], True, "ab\n"), ([], True, "\n")],
)
def test_a_line_is_closed_if_it_was_begun_or_the_answer_is_whole(
    texts: list[str], is_whole: bool, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal before the first word leaves standard output empty."""

    async def pieces(_: object) -> AsyncIterator[Piece]:
        for text in texts:
            yield Piece(text, Origin.ACCEPTED)
        if not is_whole:
            raise TandemError("the edge is gone")

    answer: Any = SimpleNamespace(pieces=pieces, config=SimpleNamespace(mode="split"))
    with nullcontext() if is_whole else pytest.raises(TandemError):
        asyncio.run(show(answer, None, stream=True))
    assert capsys.readouterr().out == shown


class Screen(io.StringIO):
    """Standard output and standard error, a terminal or two files."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "shown"),
    [
        (True, "Once \nthe edge is away\nback\nupon\n"),
        (False, "Once the edge is away\nback\nupon\n"),
    ],
)
def test_on_a_terminal_warnings_have_lines_of_their_own(
    is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the text is as it is: somebody may read it from a pipe."""
    screen = Screen(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    root, handler = logging.getLogger(), logging.StreamHandler(screen)
    monkeypatch.setattr(root, "handlers", [handler])

    async def pieces(_: object) -> AsyncIterator[Piece]:
        yield Piece("Once ", Origin.ACCEPTED)
        root.warning("the edge is away")
        root.warning("back")
        yield Piece("upon", Origin.ACCEPTED)

    answer: Any = SimpleNamespace(pieces=pieces, config=SimpleNamespace(mode="edge"))
    asyncio.run(show(answer, None, stream=True))
    assert screen.getvalue() == shown
    assert handler.filters == []
