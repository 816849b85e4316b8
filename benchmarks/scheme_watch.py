"""What `tandem bench schemes` notes while two sessions write: bytes, chances, CPU time per side.

Times are CPU seconds of the one thread, so that other work on the machine hardly counts; they leave
out the models, and logits → law is timed apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.acceptance import expected_acceptance
from benchmarks.stopwatch import Stopwatch
from benchmarks.wide_vocabulary import WideVocabulary
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.law import Law, overlap
from device_runtime.protocol.messages import MAX_GAMMA
from device_runtime.protocol.sampling import Logits, Sampling, to_law
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme
from device_runtime.turn import Counts


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
    draft_s: list[float] = field(default_factory=list)
    """Device: laws → the drafts of the block, q rounded and truncated where the scheme does so."""
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

    distances: list[float] = field(default_factory=list)
    """Of the law that is written to p, at some places of a lossy text."""

    @property
    def num_tokens(self) -> int:
        counts = self.counts
        return counts.accepted + counts.rejected + counts.bonus + counts.unverified


class Watched:
    """A scheme that notes the chances wherever a draft is judged; all else is the scheme's own."""

    def __init__(self, scheme: Scheme, measured: Measured) -> None:
        self._scheme = scheme
        self._measured = measured
        self._drafted: dict[int, tuple[Law, Drafted]] = {}
        self.draft_watch = Stopwatch()
        self.edge_watch = Stopwatch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def draft(self, q: Law, place: Any, coins: Any) -> Drafted:
        with self.draft_watch.running():
            drafted = self._scheme.draft(q, place, coins)
        self._drafted[place.position] = q, drafted
        self._drafted.pop(place.position - MAX_GAMMA - 1, None)  # laws take memory
        return drafted

    def drafted_at(self, position: int) -> Drafted:
        """What was drafted last at this position."""
        return self._drafted[position][1]

    def accepts(self, p: Law, drafted: Drafted, place: Any, streams: Any) -> bool:
        with self.edge_watch.paused():
            q, own = self._drafted[place.position]
            self._measured.overlaps.append(overlap(p, q))
            chance = expected_acceptance(self._scheme, p, q, own)
            if chance is not None:
                self._measured.expected.append(chance)
        return self._scheme.accepts(p, drafted, place, streams)


class Rows:
    """Rows of logits whose laws are made outside the stopwatch, and timed by their own."""

    def __init__(
        self,
        logits: NDArray[np.float32],
        wide: WideVocabulary | None,
        watch: Stopwatch,
        measured: Measured,
    ) -> None:
        self._logits, self._wide, self._watch, self._measured = logits, wide, watch, measured

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        with self._watch.paused():
            logits = self._logits[row]
            if self._wide is not None:
                logits = self._wide.widen(logits, "p")
            return timed_law(logits, sampling, generated, self._measured)


def timed_law(
    logits: Logits, sampling: Sampling, generated: Sequence[int], measured: Measured
) -> Law:
    """As `to_law`, and how long it took."""
    watch = Stopwatch()
    with watch.running():
        law = to_law(logits, sampling, generated)
    measured.law_s.append(watch.total_s)
    return law


class TimedSession(DeviceSession):
    """A device session that times its encoding, which happens inside the turn's draft."""

    watch: Stopwatch

    def round(self, block: Sequence[Drafted], ask: Ask, bonus: bool = True) -> bytes:
        with self.watch.running():
            return super().round(block, ask, bonus)


class TimesLaws:
    """Goes before a turn: times its laws."""

    measured: Measured
    _generation: Generation

    def _law_of(self, logits: Logits) -> Law:
        return timed_law(logits, self._generation.sampling, (), self.measured)
