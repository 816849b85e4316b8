"""What was drafted, judged and written: counts of one session, or of all of them.

The counters are those of onnxruntime-genai's speculative statistics. A token is *proposed* when it
was drafted, *evaluated* when the edge judged it (what follows a rejection is not judged), and
*accepted* when it stands. alpha is accepted / evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_runtime.protocol.edge_states import Outcome


@dataclass(slots=True)
class BatchTally:
    """Of all batches since the start."""

    batches: int = 0
    jobs: int = 0
    tokens: int = 0
    """New ones, which the model ran."""

    def add(self, num_jobs: int, num_tokens: int) -> None:
        """A batch is done."""
        self.batches += 1
        self.jobs += num_jobs
        self.tokens += num_tokens


@dataclass(slots=True)
class Tally:
    """Plain integers, as they are counted on every round."""

    rounds: int = 0
    """Verdicts, those on empty blocks included."""
    proposed: int = 0
    evaluated: int = 0
    accepted: int = 0
    corrections: int = 0
    """Rejections: the device draws a token in the place of the drafted one."""
    bonus: int = 0
    """Tokens that the edge added after a block that stands as a whole."""
    full_rounds: int = 0
    """All drafted tokens stand; empty blocks count nowhere here."""
    partial_rounds: int = 0
    zero_rounds: int = 0
    """None of the drafted tokens stands."""
    streamed: int = 0
    """Tokens that the LLM wrote without drafts."""

    @property
    def alpha(self) -> float | None:
        """Acceptance rate; None before anything was judged."""
        return self.accepted / self.evaluated if self.evaluated else None

    @property
    def written(self) -> int:
        """Tokens that stand. A correction is counted, though the device may draw it later."""
        return self.accepted + self.bonus + self.corrections + self.streamed

    def add(self, outcome: Outcome) -> None:
        """A round was judged, or a stream went on."""
        self.streamed += outcome.num_streamed
        if not outcome.is_round:
            return
        gamma, accepted = outcome.gamma, outcome.num_accepted
        self.rounds += 1
        self.proposed += gamma
        self.evaluated += accepted + outcome.rejected
        self.accepted += accepted
        self.corrections += outcome.rejected
        self.bonus += outcome.bonus
        if gamma:
            self.full_rounds += accepted == gamma
            self.zero_rounds += accepted == 0
            self.partial_rounds += 0 < accepted < gamma
