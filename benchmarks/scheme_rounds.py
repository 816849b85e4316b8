"""Rounds of one scheme between the two sessions in one process: bytes, acceptance, time per side.

The real drafter, engine and sessions and their real bytes; only the socket is missing. Several
answers are written in step, so that the LLM judges their blocks in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scheme_watch import Measured, Rows, TimedSession, TimesLaws, Watched
from benchmarks.stopwatch import Stopwatch
from benchmarks.wide_vocabulary import WideDrafter, widened
from device_runtime.drafter import Drafter
from device_runtime.lossy import Method
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Step
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.turn import Turn
from edge_server.engine import Slot, TorchEngine

CONTEXT_LEN = 1024


class LocalPair:
    """An LLM and an SLM in this process, their vocabulary widened if wanted."""

    def __init__(
        self, engine: TorchEngine, drafters: Sequence[Drafter], num_own: int, num_ids: int
    ) -> None:
        """drafters: one for each answer that is written in step."""
        self.engine = engine
        self.num_ids = num_ids
        self.wide = widened(num_own, num_ids)
        self._drafters = [WideDrafter(d, self.wide) if self.wide else d for d in drafters]

    def measure(
        self, method: Method, sampling: Sampling, gamma: int, prompts: Sequence[Sequence[int]],
        tokens_each: int, kind: type[Answer] | None = None,
    ) -> Measured:  # fmt: skip
        """Write after every prompt; the same seeds for every scheme. kind: other than `Answer`."""
        measured = Measured()
        answers = [
            (kind or Answer)(self, drafter, method, sampling, prompt, number, tokens_each, measured)
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
            answer.close()
        return measured

    def _exchange(self, answers: Sequence[Answer]) -> None:
        """One message up and one down for each, the LLM's rows in one pass."""
        jobs = [(answer.slot, answer.receive()) for answer in answers]
        for answer, logits in zip(answers, self.logits(jobs), strict=True):
            answer.settle(logits)

    def logits(self, jobs: Sequence[tuple[Slot, Job]]) -> list[NDArray[np.float32]]:
        """The LLM's own rows, not widened."""
        if self.wide is not None:
            parents = self.wide.parents
            jobs = [(s, Job(tuple(parents(j.tokens).tolist()), j.num_rows)) for s, j in jobs]
        return [rows.numpy() for rows in self.engine.logits(jobs)]


class Answer:
    """One answer, round by round."""

    def __init__(
        self, pair: LocalPair, drafter: Drafter, method: Method, sampling: Sampling,
        prompt: Sequence[int], number: int, num_wanted: int, measured: Measured,
    ) -> None:  # fmt: skip
        def vocabulary_hash(count: int) -> bytes:
            return count.to_bytes(16, "little")

        self.scheme = Watched(method.scheme, measured)
        watched: Any = self.scheme
        facts = EdgeFacts("pair", pair.num_ids, vocabulary_hash, CONTEXT_LEN, ())
        self.pair, self.method, self.measured = pair, method, measured
        self.num_wanted = num_wanted
        """Tokens that are still to be written, to begin with."""
        self.slot = pair.engine.open()
        self.data: bytes | None = None
        """What the device has to send."""
        self.job: Job
        """What the edge has to compute for it."""
        self.up: list[int] = []
        self.down: list[int] = []
        names = ("draft", "encode", "decode", "judge", "settle")
        self.watches = {name: Stopwatch() for name in names}
        self.scheme.draft_watch = self.watches["draft"]
        self.scheme.edge_watch = self.watches["judge"]
        self.edge = EdgeSession(facts, bytes(16), scheme_of=lambda _: watched)
        self.session = TimedSession(pair.num_ids, vocabulary_hash, "bench")
        self.session.watch = self.watches["encode"]
        self.generation = Generation(watched, sampling, number, ())
        self.coins = device_coins(number)
        self.drafter = drafter
        self._open(prompt)
        self._first = len(self.session.tokens)

    def _open(self, prompt: Sequence[int]) -> None:
        hello = self.edge.receive(self.session.hello())
        assert hello.reply is not None
        self.session.receive_welcome(hello.reply)
        self.session.append(prompt)
        begun = self.edge.receive(self.session.begin(self.generation))
        if begun.job is not None:  # the prompt: it runs with the first block
            begun = self.edge.commit(None)
        assert begun.reply is not None
        self.session.receive_begun(begun.reply)
        self.drafter.truncate(0)
        self.turn = self.make_turn()

    def make_turn(self) -> Turn:
        """What drafts and settles."""
        turn = TimedTurn(
            self.session, self.drafter, self.generation, self.coins, self.measured.counts
        )
        turn.measured = self.measured
        return turn

    @property
    def num_new(self) -> int:
        """Tokens written so far."""
        return len(self.session.tokens) - self._first

    def begin_round(self, gamma: int) -> None:
        """Draft a block."""
        self.start()
        self.data = self.turn.draft(gamma)

    def start(self) -> None:
        """Forget what the last round took."""
        self.up, self.down = [], []
        for watch in self.watches.values():
            watch.total_s = 0.0

    def receive(self) -> Job:
        """Edge: take the device's message."""
        assert self.data is not None
        self.up.append(len(self.data))
        with self.watches["decode"].running():
            job = self.edge.receive(self.data).job
        assert job is not None
        self.job = job
        return job

    def settle(self, logits: NDArray[np.float32]) -> None:
        """Edge: judge; device: take the answer, which may call for another message."""
        reply = self.judged(logits).reply
        assert reply is not None
        self.down.append(len(reply))
        rejected = self.measured.counts.rejected
        with self.watches["settle"].running():
            self.data = self.turn.receive(reply).send
        self._rejects = len(self.down) > 1 or self.measured.counts.rejected > rejected

    def judged(self, logits: NDArray[np.float32]) -> Step:
        """Edge: what follows from the rows it asked for."""
        watch = self.watches["judge"]
        rows = Rows(logits, self.pair.wide, watch, self.measured)
        with watch.running():
            return self.edge.commit(self.job.read(rows))

    def end_round(self) -> None:
        """Note what the round took, if there was one."""
        if not self.up:
            return
        self.measured.bytes_up.append(tuple(self.up))
        self.measured.bytes_down.append(tuple(self.down))
        self.measured.rejecting.append(self._rejects)
        for name, watch in self.watches.items():
            getattr(self.measured, f"{name}_s").append(watch.total_s)

    def close(self) -> None:
        """Give the LLM's memory back."""
        self.pair.engine.drop(self.slot)


class TimedTurn(TimesLaws, Turn):
    """A turn whose laws are timed."""
