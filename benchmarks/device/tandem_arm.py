"""Tandem's own drafter, with a clock around every call into onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from device_runtime import cached_graph
from device_runtime.bundle import Bundle
from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.ort_session import Session, open_session
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import DEFAULT_SCHEME, scheme_named
from device_runtime.settings import RuntimeSettings
from device_runtime.turn import Counts, Turn

GAMMA = 4
MAX_CONTEXT = 1 << 16


class TandemArm:
    """Kinds: see `kinds`.

    `again`: greedy tokens after the prompt, the same ones each time. `bare`: the last run again and
    again, nothing else. `drafting`: `Turn.draft` at T = 1 over the whole vocabulary. `outside`: the
    share of drafting spent outside onnxruntime.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._clock = _Clock()
        bundle = Bundle.open(Path(spec["model"]))
        # The one seam: whatever the drafter runs goes through the session that it opens.
        with mock.patch.object(cached_graph, "open_session", self._clock.open):
            self._drafter = OnnxDrafter(bundle, RuntimeSettings(**spec["settings"]))
        self.vocab_size = bundle.manifest.vocab_size
        self.version = f"onnxruntime {version('onnxruntime')}"
        self.kinds: dict[str, Callable[[int], list[float]]] = {
            "again": self._again,
            "bare": self._bare,
            "drafting": lambda count: self._blocks(count)[0],
            "outside": lambda count: self._blocks(count)[1],
        }

    def prefill(self, ids: list[int]) -> int:
        self._ids = ids
        self._drafter.truncate(0)
        self._first = int(self._drafter.append(np.array(ids)).argmax())
        return self._first

    def step(self, token_id: int) -> int:
        return int(self._drafter.append(np.array([token_id])).argmax())

    def _again(self, count: int) -> list[float]:
        self._drafter.truncate(len(self._ids))
        token_id, seconds = self._first, []
        for _ in range(count):
            started_s = time.perf_counter()
            token_id = self.step(token_id)
            seconds.append(time.perf_counter() - started_s)
        return seconds

    def _bare(self, count: int) -> list[float]:
        self._drafter.truncate(len(self._ids) - 1)
        self._drafter.append(np.array(self._ids[-1:]))
        return [self._clock.again() for _ in range(count)]

    def _blocks(self, count: int) -> tuple[list[float], list[float]]:
        """Blocks of GAMMA tokens after the same prompt: seconds per token, share outside."""
        turn = self._turn()
        seconds, shares = [], []
        for _ in range(-(-count // GAMMA)):
            self._drafter.truncate(len(self._ids) - 1)
            inside_before_s, started_s = self._clock.inside_s, time.perf_counter()
            turn.draft(GAMMA)
            wall_s = time.perf_counter() - started_s
            inside_s = self._clock.inside_s - inside_before_s
            seconds.append(wall_s / GAMMA)
            shares.append(1 - inside_s / wall_s)
        return seconds, shares

    def _turn(self) -> Turn:
        """A turn after the prompt, shaken hands with an edge of the same vocabulary."""
        num_ids = self.vocab_size

        def vocabulary_hash(count: int) -> bytes:
            return count.to_bytes(16, "little")

        session = DeviceSession(num_ids, vocabulary_hash, "bench")
        edge = EdgeSession(EdgeFacts("bench", num_ids, vocabulary_hash, MAX_CONTEXT, ()), b"bench")
        welcome = edge.receive(session.hello()).reply
        assert welcome is not None
        session.receive_welcome(welcome)
        session.append(self._ids)
        generation = Generation(scheme_named(DEFAULT_SCHEME), Sampling(), seed=0, end_ids=())
        session.begin(generation)
        return Turn(session, self._drafter, generation, device_coins(0), Counts())


class _Clock:
    """Adds up the time inside onnxruntime's runs."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self._last: tuple[Session, Any] | None = None

    def open(self, *arguments: Any) -> _Watched:
        """A session as the drafter opens it, watched."""
        return _Watched(open_session(*arguments), self)

    def run(self, session: Session, binding: Any) -> None:
        self._last = (session, binding)
        started_s = time.perf_counter()
        session.run_with_iobinding(binding)
        self.inside_s += time.perf_counter() - started_s

    def again(self) -> float:
        """The last run once more, with the same inputs at the same addresses; its seconds."""
        assert self._last is not None
        before_s = self.inside_s
        self.run(*self._last)
        return self.inside_s - before_s


class _Watched:
    """A session whose runs are timed."""

    def __init__(self, session: Session, clock: _Clock) -> None:
        self._session, self._clock = session, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self._clock.run(self._session, binding)
