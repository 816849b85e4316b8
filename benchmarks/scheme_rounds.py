"""Rounds of one scheme between the two sessions in one process: bytes, acceptance, time per side.

The real drafter, engine and sessions and their real bytes; only the socket is missing.
Times leave out the models and logits → law, which `benchmarks.laws` measures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.wide_vocabulary import WideDrafter, WideRows, WideVocabulary
from device_runtime.drafter import Drafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Rows
from device_runtime.protocol.law import Law, overlap
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme
from device_runtime.turn import Counts, Turn
from edge_server.engine import TorchEngine

CONTEXT_LEN = 1024


@dataclass
class Measured:
    """What a run of rounds gave."""

    counts: Counts = field(default_factory=Counts)
    bytes_up: list[int] = field(default_factory=list)
    """Payload of every round's way up, requests for more included."""
    bytes_down: list[int] = field(default_factory=list)
    bytes_down_rejected: list[int] = field(default_factory=list)
    """The same for rounds that rejected."""
    overlaps: list[float] = field(default_factory=list)
    """1 − D at every judged position."""
    device_s: list[float] = field(default_factory=list)
    """Encode, decode and settle of every round."""
    edge_s: list[float] = field(default_factory=list)
    """Decode, judge and encode of every round."""

    @property
    def num_tokens(self) -> int:
        return self.counts.accepted + self.counts.rejected + self.counts.bonus


class Stopwatch:
    """Adds up seconds, less those spent inside `paused` blocks."""

    def __init__(self) -> None:
        self.total_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self.total_s += time.perf_counter() - start_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self.total_s -= time.perf_counter() - start_s


class LocalPair:
    """An LLM and an SLM in this process, their vocabulary widened if wanted."""

    def __init__(self, engine: TorchEngine, drafter: Drafter, num_own: int, num_ids: int) -> None:
        self.engine = engine
        self._wide = WideVocabulary(num_own, num_ids) if num_ids > num_own else None
        self.drafter = WideDrafter(drafter, self._wide) if self._wide else drafter
        self.num_ids = num_ids

    def rows(self, slot: Any, job: Job) -> Rows:
        """The edge's laws for a job."""
        if self._wide is None:
            return self.engine.run([(slot, job)])[0]
        own = Job(tuple(self._wide.parents(job.tokens).tolist()), job.num_rows)
        return WideRows(self.engine.run([(slot, own)])[0], self._wide)

    def measure(
        self, scheme: Scheme, sampling: Sampling, gamma: int, prompts: Sequence[Sequence[int]],
        tokens_each: int,
    ) -> Measured:  # fmt: skip
        """Write after every prompt; the same seeds for every scheme."""
        measured = Measured()
        for number, prompt in enumerate(prompts):
            run = _Run(self, _Watched(scheme, measured), sampling, prompt, number, measured)
            run.write(gamma, tokens_each)
        return measured


class _Watched:
    """A scheme that notes 1 − D wherever a draft is judged; all else is the scheme's own."""

    def __init__(self, scheme: Scheme, measured: Measured) -> None:
        self._scheme = scheme
        self._measured = measured
        self._drafted_from: dict[int, Law] = {}
        self.edge_watch = Stopwatch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def draft(self, q: Law, place: Any, coins: Any) -> Any:
        self._drafted_from[place.position] = q
        return self._scheme.draft(q, place, coins)

    def accepts(self, p: Law, drafted: Any, place: Any, streams: Any) -> bool:
        with self.edge_watch.paused():
            self._measured.overlaps.append(overlap(p, self._drafted_from[place.position]))
        return self._scheme.accepts(p, drafted, place, streams)


class _LawsApart:
    """Rows whose laws are made outside the stopwatch."""

    def __init__(self, rows: Rows, watch: Stopwatch) -> None:
        self._rows = rows
        self._watch = watch

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        with self._watch.paused():
            return self._rows.law(row, sampling, generated)


class _TimedSession(DeviceSession):
    """A device session that times its encoding, which happens inside the turn's draft."""

    watch = Stopwatch()

    def round(self, block: Sequence[Drafted], ask: Ask, bonus: bool = True) -> bytes:
        with self.watch.running():
            return super().round(block, ask, bonus)


class _Run:
    """One answer."""

    def __init__(
        self, pair: LocalPair, scheme: _Watched, sampling: Sampling, prompt: Sequence[int],
        number: int, measured: Measured,
    ) -> None:  # fmt: skip
        def vocabulary_hash(count: int) -> bytes:
            return count.to_bytes(16, "little")

        watched: Any = scheme
        facts = EdgeFacts("pair", pair.num_ids, vocabulary_hash, CONTEXT_LEN, ())
        self._pair, self._scheme, self._measured = pair, scheme, measured
        self._slot = pair.engine.open()
        self._edge = EdgeSession(facts, bytes(16), scheme_of=lambda _: watched)
        self._session = _TimedSession(pair.num_ids, vocabulary_hash, "bench")
        self._session.receive_welcome(self._answer(self._session.hello()))
        self._session.append(prompt)
        pair.drafter.truncate(0)
        generation = Generation(watched, sampling, number, ())
        self._session.receive_begun(self._answer(self._session.begin(generation)))
        coins = device_coins(number)
        self._turn = Turn(self._session, pair.drafter, generation, coins, measured.counts)

    def write(self, gamma: int, num_tokens: int) -> None:
        """Rounds until so many tokens stand."""
        until = len(self._session.tokens) + num_tokens
        while len(self._session.tokens) < until:
            self._round(gamma)
        self._pair.engine.drop(self._slot)

    def _round(self, gamma: int) -> None:
        measured, up, down = self._measured, 0, 0
        device, edge = self._session.watch, self._scheme.edge_watch
        device.total_s = edge.total_s = 0.0
        rejected_before = measured.counts.rejected
        data: bytes | None = self._turn.draft(gamma)
        while data is not None:
            up += len(data)
            answer = self._answer(data)
            down += len(answer)
            with device.running():
                data = self._turn.receive(answer).send
        measured.bytes_up.append(up)
        measured.bytes_down.append(down)
        if measured.counts.rejected > rejected_before:
            measured.bytes_down_rejected.append(down)
        measured.device_s.append(device.total_s)
        measured.edge_s.append(edge.total_s)

    def _answer(self, data: bytes) -> bytes:
        watch = self._scheme.edge_watch
        with watch.running():
            step = self._edge.receive(data)
        if step.job is not None:
            rows = self._pair.rows(self._slot, step.job)
            with watch.running():
                step = self._edge.commit(_LawsApart(rows, watch))
        assert step.reply is not None
        return step.reply
