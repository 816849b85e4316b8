"""How fast this machine reads memory, with as many threads as the contenders have: the floor.

A token needs every weight once, so the model's bytes over this rate is the least time it can take
where the weights do not stay in a cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

BUFFER_BYTES = 512 << 20
"""Far more than the caches of any board; of a large server CPU's, a multiple of one core's share."""


class MemoryArm:
    """Each thread reads its part of a buffer through numpy's dot product, which lets others run."""

    vocab_size = 1
    version = "numpy " + np.__version__

    def __init__(self, spec: dict[str, Any]) -> None:
        num_threads = spec["num_threads"]
        size = BUFFER_BYTES // 4 // num_threads
        # Written, not just reserved: unwritten pages are all one page of zeros.
        self._parts = [np.ones(size, np.float32) for _ in range(num_threads)]
        self._pool = ThreadPoolExecutor(num_threads)
        self.kinds: dict[str, Callable[[int], list[float]]] = {"read": self._read}

    def prefill(self, ids: list[int]) -> int:
        return 0

    def step(self, token_id: int) -> int:
        return 0

    def _read(self, count: int) -> list[float]:
        """Seconds per byte of `count` passes."""
        return [self._pass() for _ in range(count)]

    def _pass(self) -> float:
        started_s = time.perf_counter()
        list(self._pool.map(_read_all, self._parts))
        return (time.perf_counter() - started_s) / sum(part.nbytes for part in self._parts)


def _read_all(part: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    np.dot(part, part)
