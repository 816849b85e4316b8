"""Adds up CPU seconds of this thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent in `running` blocks, less those in `paused` blocks inside them."""

    def __init__(self) -> None:
        self.total_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start_s = time.thread_time()
        yield
        self.total_s += time.thread_time() - start_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        start_s = time.thread_time()
        yield
        self.total_s -= time.thread_time() - start_s
