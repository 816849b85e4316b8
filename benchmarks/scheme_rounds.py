"""Rounds of one scheme between the two sessions in one process: bytes, acceptance, time per side.

The real drafter, engine and sessions and their real bytes; only the socket is missing. Several
answers are written in step, so that the LLM judges their blocks in one pass. Times are CPU seconds
of the one thread, so that other work on the machine hardly counts; they leave out the models, and
logits → law is timed apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.acceptance import expected_acceptance
from benchmarks.stopwatch import Stopwatch
from benchmarks.wide_vocabulary import WideDrafter, WideVocabulary
from device_runtime.drafter import Drafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Step
from device_runtime.protocol.law import Law, overlap
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Logits, Sampling, to_law
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme
from device_runtime.turn import Counts, Turn
from edge_server.engine import TorchEngine

CONTEXT_LEN = 1024


@dataclass
class Measured:
    """What a run of rounds gave. Bytes and times: one entry a round, requests for more included."""

    counts: Counts = field(default_factory=Counts)
    bytes_up: list[tuple[int, ...]] = field(default_factory=list)
    """Payload of each message."""
    bytes_down: list[tuple[int, ...]] = field(default_factory=list)
    rejecting: list[bool] = field(default_factory=list)
    """Whether the round rejected a draft."""
    overlaps: list[float] = field(default_factory=list)
    """1 − D at every judged position."""
    expected: list[float] = field(default_factory=list)
    """Chance of acceptance there, given p and q; empty where the scheme has no formula."""
    encode_s: list[float] = field(default_factory=list)
    """Device: the block → bytes."""
    decode_s: list[float] = field(default_factory=list)
    """Edge: bytes → the block."""
    judge_s: list[float] = field(default_factory=list)
    """Edge: judging, and the verdict → bytes."""
    settle_s: list[float] = field(default_factory=list)
    """Device: bytes → the verdict, and the replacement."""
    law_s: list[float] = field(default_factory=list)
    """Logits → law, one entry a law, of either side."""

    @property
    def num_tokens(self) -> int:
        return self.counts.accepted + self.counts.rejected + self.counts.bonus


class LocalPair:
    """An LLM and an SLM in this process, their vocabulary widened if wanted."""

    def __init__(
        self, engine: TorchEngine, drafters: Sequence[Drafter], num_own: int, num_ids: int
    ) -> None:
        """drafters: one for each answer that is written in step."""
        self.engine = engine
        self.num_ids = num_ids
        self.wide = _wide_vocabulary(num_own, num_ids) if num_ids > num_own else None
        self._drafters = [WideDrafter(d, self.wide) if self.wide else d for d in drafters]

    def measure(
        self, scheme: Scheme, sampling: Sampling, gamma: int, prompts: Sequence[Sequence[int]],
        tokens_each: int,
    ) -> Measured:  # fmt: skip
        """Write after every prompt; the same seeds for every scheme."""
        measured = Measured()
        answers = [
            _Answer(self, drafter, _Watched(scheme, measured), sampling, prompt, number, measured)
            for number, (drafter, prompt) in enumerate(zip(self._drafters, prompts, strict=True))
        ]
        while unfinished := [answer for answer in answers if answer.num_new < tokens_each]:
            for answer in unfinished:
                answer.begin_round(gamma)
            while waiting := [answer for answer in unfinished if answer.data is not None]:
                self._exchange(waiting)
            for answer in unfinished:
                answer.end_round()
        for answer in answers:
            self.engine.drop(answer.slot)
        return measured

    def _exchange(self, answers: Sequence[_Answer]) -> None:
        """One message up and one down for each, the LLM's rows in one pass."""
        jobs = [(answer.slot, self._job(answer.receive())) for answer in answers]
        for answer, logits in zip(answers, self.engine.logits(jobs), strict=True):
            answer.settle(logits.numpy())

    def _job(self, step: Step) -> Job:
        assert step.job is not None
        tokens = step.job.tokens
        if self.wide is not None:
            tokens = tuple(self.wide.parents(tokens).tolist())
        return Job(tokens, step.job.num_rows)


@lru_cache(maxsize=1)
def _wide_vocabulary(num_own: int, num_ids: int) -> WideVocabulary:
    return WideVocabulary(num_own, num_ids)


class _Watched:
    """A scheme that notes the chances wherever a draft is judged; all else is the scheme's own."""

    def __init__(self, scheme: Scheme, measured: Measured) -> None:
        self._scheme = scheme
        self._measured = measured
        self._drafted: dict[int, tuple[Law, Drafted]] = {}
        self.edge_watch = Stopwatch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def draft(self, q: Law, place: Any, coins: Any) -> Drafted:
        drafted = self._scheme.draft(q, place, coins)
        self._drafted[place.position] = q, drafted
        return drafted

    def accepts(self, p: Law, drafted: Drafted, place: Any, streams: Any) -> bool:
        with self.edge_watch.paused():
            q, own = self._drafted[place.position]
            self._measured.overlaps.append(overlap(p, q))
            chance = expected_acceptance(self._scheme, p, q, own)
            if chance is not None:
                self._measured.expected.append(chance)
        return self._scheme.accepts(p, drafted, place, streams)


class _Rows:
    """Rows of logits whose laws are made outside the stopwatch, and timed by their own."""

    def __init__(
        self, logits: NDArray[np.float32], pair: LocalPair, watch: Stopwatch, measured: Measured
    ) -> None:
        self._logits, self._pair, self._watch, self._measured = logits, pair, watch, measured

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        with self._watch.paused():
            logits = self._logits[row]
            if self._pair.wide is not None:
                logits = self._pair.wide.widen(logits, "p")
            return _timed_law(logits, sampling, generated, self._measured)


def _timed_law(
    logits: Logits, sampling: Sampling, generated: Sequence[int], measured: Measured
) -> Law:
    watch = Stopwatch()
    with watch.running():
        law = to_law(logits, sampling, generated)
    measured.law_s.append(watch.total_s)
    return law


class _TimedSession(DeviceSession):
    """A device session that times its encoding, which happens inside the turn's draft."""

    watch: Stopwatch

    def round(self, block: Sequence[Drafted], ask: Ask, bonus: bool = True) -> bytes:
        with self.watch.running():
            return super().round(block, ask, bonus)


class _TimedTurn(Turn):
    """A turn whose laws are timed."""

    measured: Measured

    def _law_of(self, logits: Logits) -> Law:
        return _timed_law(logits, self._generation.sampling, (), self.measured)


class _Answer:
    """One answer, round by round."""

    def __init__(
        self, pair: LocalPair, drafter: Drafter, scheme: _Watched, sampling: Sampling,
        prompt: Sequence[int], number: int, measured: Measured,
    ) -> None:  # fmt: skip
        def vocabulary_hash(count: int) -> bytes:
            return count.to_bytes(16, "little")

        watched: Any = scheme
        facts = EdgeFacts("pair", pair.num_ids, vocabulary_hash, CONTEXT_LEN, ())
        self._pair, self._scheme, self._measured = pair, scheme, measured
        self.slot = pair.engine.open()
        self.data: bytes | None = None
        """What the device has to send."""
        self._up: list[int] = []
        self._down: list[int] = []
        self._watches = {name: Stopwatch() for name in ("encode", "decode", "judge", "settle")}
        scheme.edge_watch = self._watches["judge"]
        self._edge = EdgeSession(facts, bytes(16), scheme_of=lambda _: watched)
        self._session = _TimedSession(pair.num_ids, vocabulary_hash, "bench")
        self._session.watch = self._watches["encode"]
        self._open(Generation(watched, sampling, number, ()), prompt)
        drafter.truncate(0)
        generation = Generation(watched, sampling, number, ())
        coins = device_coins(number)
        self._turn = _TimedTurn(self._session, drafter, generation, coins, measured.counts)
        self._turn.measured = measured
        self._first = len(self._session.tokens)

    def _open(self, generation: Generation, prompt: Sequence[int]) -> None:
        hello = self._edge.receive(self._session.hello())
        assert hello.reply is not None
        self._session.receive_welcome(hello.reply)
        self._session.append(prompt)
        begun = self._edge.receive(self._session.begin(generation))
        if begun.job is not None:  # the prompt: it runs with the first block
            begun = self._edge.commit(
                _Rows(np.empty((0, 0), np.float32), self._pair, Stopwatch(), Measured())
            )
        assert begun.reply is not None
        self._session.receive_begun(begun.reply)

    @property
    def num_new(self) -> int:
        """Tokens written so far."""
        return len(self._session.tokens) - self._first

    def begin_round(self, gamma: int) -> None:
        """Draft a block."""
        self._up, self._down = [], []
        for watch in self._watches.values():
            watch.total_s = 0.0
        self.data = self._turn.draft(gamma)

    def receive(self) -> Step:
        """Edge: take the device's message."""
        assert self.data is not None
        self._up.append(len(self.data))
        with self._watches["decode"].running():
            return self._edge.receive(self.data)

    def settle(self, logits: NDArray[np.float32]) -> None:
        """Edge: judge; device: take the answer, which may call for another message."""
        watch = self._watches["judge"]
        rows = _Rows(logits, self._pair, watch, self._measured)
        with watch.running():
            step = self._edge.commit(rows)
        assert step.reply is not None
        self._down.append(len(step.reply))
        rejected = self._measured.counts.rejected
        with self._watches["settle"].running():
            self.data = self._turn.receive(step.reply).send
        self._rejects = len(self._down) > 1 or self._measured.counts.rejected > rejected

    def end_round(self) -> None:
        """Note what the round took."""
        measured = self._measured
        measured.bytes_up.append(tuple(self._up))
        measured.bytes_down.append(tuple(self._down))
        measured.rejecting.append(self._rejects)
        for name, watch in self._watches.items():
            getattr(measured, f"{name}_s").append(watch.total_s)
