"""The program in a contender's process: reads commands, one JSON object a line, and answers likewise.

`python -m benchmarks.device.worker '{"arm": …, "model": …, "num_threads": …, …}'`, from the checkout.
It runs under the peers' Python too: here and in `peer_arms` only numpy and the peer are imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

PR_SET_PDEATHSIG = 1
"""As prctl(2) of Linux counts."""


class Arm(Protocol):
    """A model with its cache, batch 1. A step is one run, its logits, and their largest."""

    vocab_size: int
    version: str
    """Of the library that runs the model."""
    kinds: dict[str, Callable[[int], list[float]]]
    """Further ways to write tokens: count → seconds of each."""

    def prefill(self, ids: list[int]) -> int:
        """Forget everything, run ids (n,), and give the most probable next token."""
        ...

    def step(self, token_id: int) -> int:
        """Run one token; the most probable next one."""
        ...


def opened(spec: dict[str, Any]) -> Arm:
    """The contender that the command line names."""
    if spec["arm"] == "tandem":
        from benchmarks.device.tandem_arm import TandemArm

        return TandemArm(spec)
    if spec["arm"] == "memory":
        from benchmarks.device.memory_arm import MemoryArm

        return MemoryArm(spec)
    from benchmarks.device import peer_arms

    arm: Arm = peer_arms.ARMS[spec["arm"]](spec)
    return arm


class Worker:
    """Carries out the commands."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._random = np.random.default_rng(0)
        self._next = 0

    def prefill(self, count: int) -> dict[str, Any]:
        """Seconds of a prompt of random ids."""
        ids = self._random.integers(0, self._arm.vocab_size, count).tolist()
        started_s = time.perf_counter()
        self._next = self._arm.prefill(ids)
        return {"prefill_s": time.perf_counter() - started_s}

    def decode(self, count: int, kind: str) -> dict[str, Any]:
        """Seconds of each token, and CPU seconds of all threads meanwhile."""
        cpu_before_s = time.process_time()
        if kind == "greedy":
            steps_s = [self._step() for _ in range(count)]
        else:
            steps_s = self._arm.kinds[kind](count)
        return {"steps_s": steps_s, "cpu_s": time.process_time() - cpu_before_s}

    def _step(self) -> float:
        started_s = time.perf_counter()
        self._next = self._arm.step(self._next)
        return time.perf_counter() - started_s


def end_with_parent() -> None:
    """From now on the end of the bench, however it comes, ends this process.

    A stopped process sees no end of its input, and one that nobody wakes would stay for ever: SIGKILL
    needs no waking. Off Linux only the bench itself can end it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Load the model, run one token, say so, and serve commands until the input ends."""
    end_with_parent()
    # Libraries print what they like: they get stderr, and the answers a stream of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    try:
        arm = opened(spec)
        worker = Worker(arm)
        worker.prefill(1)
    except Exception as error:  # noqa: BLE001 -- whatever a peer raises: the bench goes on without it
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        return
    print(json.dumps({"version": arm.version, "kinds": sorted(arm.kinds)}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        do: Callable[..., dict[str, Any]] = getattr(worker, command.pop("do"))
        print(json.dumps(do(**command)), file=answers)


if __name__ == "__main__":
    main()
