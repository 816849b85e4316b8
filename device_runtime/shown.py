"""The text of an answer on standard output as it is written, and warnings that do not break it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from device_runtime.link import EdgeLink
from device_runtime.turn import Origin
from device_runtime.writer import Answer

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


async def show(answer: Answer, edge: EdgeLink | None, *, stream: bool) -> None:
    """Print the pieces as they come; on a terminal, what no edge has verified is dim.

    A line is ended if it was begun or the answer is whole: what fails before its first word prints
    nothing.
    """
    dims = sys.stdout.isatty() and "NO_COLOR" not in os.environ and answer.config.mode == "split"
    with _warnings_between() as line:
        try:
            async for piece in answer.pieces(edge):
                if stream:
                    dim = dims and piece.origin is Origin.UNVERIFIED
                    line.write(f"{DIM}{piece.text}{PLAIN}" if dim else piece.text)
        except BaseException:
            line.end()
            raise
    if stream:
        sys.stdout.write("\n")


class _Line:
    """What was printed since the last line was ended."""

    def __init__(self) -> None:
        self.is_open = False

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self.is_open = True

    def end(self) -> None:
        if self.is_open:
            self.write("\n")
        self.is_open = False

    def make_room(self, _: logging.LogRecord) -> bool:
        """A filter of handlers: where text and warnings share a terminal, each has its own lines."""
        if sys.stdout.isatty() and sys.stderr.isatty():
            self.end()
        return True


@contextmanager
def _warnings_between() -> Iterator[_Line]:
    line, handlers = _Line(), list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(line.make_room)
    try:
        yield line
    finally:
        for handler in handlers:
            handler.removeFilter(line.make_room)
