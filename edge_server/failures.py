"""How a bug is logged: where it happened, but never with what a client sent."""

from __future__ import annotations

import traceback

from device_runtime.protocol.errors import TandemError


class DescribedError(TandemError):
    """Its text may be logged: it holds nothing that a client sent."""


def describe(error: BaseException) -> str:
    """The error's type and the places it came through, without its text, which may hold a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    text = f" ({error})" if isinstance(error, DescribedError) else ""
    return f"{type(error).__name__}{text} at {places}"
