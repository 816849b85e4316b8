"""How a bug is logged: where it happened, but never with what a client sent."""

from __future__ import annotations

import traceback


def describe(error: BaseException) -> str:
    """The error's type and the places it came through; not its text, which may hold a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
