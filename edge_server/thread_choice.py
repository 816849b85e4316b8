"""How many threads a model on a CPU gets: as many as pay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from edge_server.batch import Piece
from edge_server.blocks import ZERO_BLOCK
from edge_server.local_runner import LocalRunner

WORTH = 1.25
"""So much faster a pass must be with twice the threads. They wait for each other in every product, so
one core that another program has makes a pass many times as slow: a small gain is not worth it."""
_NUM_RUNS = 5
_SLOW_S = 0.5
"""A pass that takes so long is told well by one run, and nobody waits for more."""
_ROUND = 5
"""Tokens of a pass that is tried: a block of four and the token before it."""


def use_threads_that_pay(runner: LocalRunner) -> None:
    """Try passes of an idle runner, and have torch use the threads that were worth it."""
    piece = Piece((0,) * _ROUND, 0, (ZERO_BLOCK + 1,), _ROUND)

    def pass_s(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        first_s = _seconds(lambda: runner.run([piece]))
        num_runs = _NUM_RUNS if first_s < _SLOW_S else 1
        return statistics.median(_seconds(lambda: runner.run([piece])) for _ in range(num_runs))

    torch.set_num_threads(fewest_that_pay(pass_s, torch.get_num_threads()))
    runner.wipe((ZERO_BLOCK + 1,))


def fewest_that_pay(pass_s: Callable[[int], float], most: int) -> int:
    """Halve the threads for as long as a pass takes less than WORTH times the best one."""
    chosen, best_s = most, pass_s(most)
    while chosen > 1:
        fewer_s = pass_s(chosen // 2)
        best_s = min(best_s, fewer_s)
        if fewer_s > WORTH * best_s:
            break
        chosen //= 2
    return chosen


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
