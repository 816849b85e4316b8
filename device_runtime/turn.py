"""The device's turn without I/O: draft a block, apply the verdict, keep the drafter in step.

A round is:

    data = turn.draft(gamma)
    while data is not None:
        step = turn.receive(await link.exchange(data))
        data = step.send  # a request for more draws, or None: the round is over
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from device_runtime.drafter import Drafter
from device_runtime.protocol.device_codec import Answer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.law import Law
from device_runtime.protocol.randomness import Coins
from device_runtime.protocol.sampling import Logits, to_law
from device_runtime.protocol.schemes.base import Ask, Drafted, Place

MAX_DRAW_REQUESTS = 3
"""The last of these is for the whole row, which settles every rejection."""


class Origin(Enum):
    """Where a committed token came from."""

    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    BONUS = "bonus"
    UNVERIFIED = "unverified"
    """The SLM's own: no edge has seen it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A token that stands."""

    token_id: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class TurnStep:
    """What stands now, and what must still be sent before the round is over."""

    committed: tuple[Committed, ...] = ()
    send: bytes | None = None


@dataclass(slots=True)
class Counts:
    """What happened so far. Tokens after a rejected one were drafted, but never judged."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    bonus: int = 0
    more_requests: int = 0
    unverified: int = 0

    @property
    def alpha(self) -> float | None:
        """Accepted over judged drafts; None before any was judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None


@dataclass(slots=True)
class DrawCount:
    """How many draws to ask for, so that about `target` of the rejections need more.

    A stochastic approximation on the logarithm: it looks only at the past, so the law is untouched.
    """

    target: float = 0.01
    step: float = 0.5
    _log_count: float = field(default=float(np.log(20)))

    def __call__(self) -> int:
        return int(np.ceil(np.exp(self._log_count)))

    def update(self, needed_more: bool) -> None:
        """After a rejection: whether the first answer held no draw that passed."""
        self._log_count += self.step * (needed_more - self.target)
        self._log_count = float(np.clip(self._log_count, 0.0, np.log(200)))


class Turn:
    """Drafting and settling of one generation."""

    def __init__(
        self,
        session: DeviceSession,
        drafter: Drafter,
        generation: Generation,
        coins: Coins,
        counts: Counts,
        num_draws: Callable[[], int] | None = None,
    ) -> None:
        """counts: where this generation's rounds are added; num_draws: for tests of `more`."""
        self.counts = counts
        self.logprobs: dict[int, float] = {}
        """ln of the LLM's own probability by index of the generated token, if asked for.

        That of a token which this side drew or kept comes with the next verdict: the last ones may
        lack it.
        """
        self._session = session
        self._drafter = drafter
        self._generation = generation
        self._coins = coins
        self._draw_count = DrawCount()
        self._num_draws = num_draws or self._draw_count
        self._block: list[Drafted] = []
        self._laws: list[Law] = []
        self._rooms: list[NDArray[np.float32]] = []
        """Where the weights of the block's laws lie, one room a drafted token, block after block."""
        self._ask = Ask()
        self._requests = 0
        self._rejected: int | None = None
        """Index of the drafted token whose replacement is still to be drawn."""

    def draft(self, gamma: int) -> bytes:
        """Draft up to gamma tokens and give the round that carries them."""
        self.draft_block(gamma)
        return self.encode()

    def draft_block(self, gamma: int) -> None:
        """Draft up to gamma tokens; it only reads the session, which may be restated meanwhile."""
        session = self._session
        room = session.facts.context_len - len(session.tokens) - 1  # one is for what follows
        gamma = min(gamma, session.facts.max_gamma, room)
        self._block, self._laws = [], []
        for _ in range(gamma):
            q = self._next_law()
            place = Place(self._generation.seed, len(session.tokens) + len(self._block))
            self._laws.append(q)
            self._block.append(self._generation.scheme.draft(q, place, self._coins))
            if self._block[-1].token_id in self._generation.end_ids:
                break  # nothing after an end token is ever judged

    def encode(self, *, bonus: bool = True) -> bytes:
        """The round that carries the block."""
        self._ask = Ask(num_draws=self._num_draws())
        self._requests = 0
        self.counts.rounds += 1
        self.counts.drafted += len(self._block)
        return self._session.round(self._block, self._ask, bonus)

    def _next_law(self) -> Law:
        """q after all committed and drafted tokens."""
        return self._law_of(self._next_logits())

    def _next_logits(self) -> Logits:
        """The drafter's row after all committed and drafted tokens."""
        ids, drafter = self._session.tokens.ids, self._drafter
        drafted = [token.token_id for token in self._block]
        known = drafter.num_tokens - len(ids)
        fresh = drafted[known:] if known >= 0 else [*ids[known:], *drafted]
        return drafter.append(np.array(fresh, np.int64))

    def _law_of(self, logits: Logits) -> Law:
        session, sampling = self._session, self._generation.sampling
        generated: Sequence[int] = ()
        if sampling.penalises:
            drafted = (token.token_id for token in self._block)
            generated = [*session.tokens.ids[session.boundary :], *drafted]
        num_ids = session.shared.num_ids
        if len(self._rooms) == len(self._block):
            self._rooms.append(np.empty(num_ids, np.float32))
        return to_law(logits, sampling, generated, num_ids, self._rooms[len(self._block)])

    def receive(self, data: bytes) -> TurnStep:
        """Apply a verdict, or the answer to a request for more draws."""
        if self._rejected is not None:
            return self._settle(self._rejected, self._session.receive_more(data))
        base = len(self._session.tokens)
        answer = self._session.receive_verdict(data, self._block)
        self._drafter.truncate(min(self._drafter.num_tokens, base + answer.num_accepted))
        generated = len(self._session.tokens) - self._session.boundary
        self.logprobs.update(enumerate(answer.logprobs, generated - len(answer.logprobs)))
        self.counts.accepted += answer.num_accepted
        committed = self._commit_accepted(answer)
        if answer.rejection is None:
            return TurnStep(committed)
        self.counts.rejected += 1
        step = self._settle(answer.num_accepted, answer.rejection)
        self._draw_count.update(needed_more=step.send is not None)
        return TurnStep(committed + step.committed, step.send)

    def _commit_accepted(self, answer: Answer) -> tuple[Committed, ...]:
        accepted = self._block[: answer.num_accepted]
        committed = [Committed(drafted.token_id, Origin.ACCEPTED) for drafted in accepted]
        if answer.next_token is not None:
            self.counts.bonus += 1
            committed.append(Committed(answer.next_token, Origin.BONUS))
        return tuple(committed)

    def _settle(self, rejected: int, rejection: object) -> TurnStep:
        """Draw the replacement of drafted token `rejected`, or ask for more draws."""
        q, drafted = self._laws[rejected], self._block[rejected]
        token_id = self._generation.scheme.settle(q, drafted, rejection, self._coins)
        if token_id is not None:
            self._rejected = None
            self._session.append([token_id])
            return TurnStep((Committed(token_id, Origin.CORRECTED),))
        self._rejected = rejected
        self._requests += 1
        self.counts.more_requests += 1
        self._ask = Ask(
            self._ask.num_draws,
            self._ask.first + self._ask.num_draws,
            whole_row=self._requests >= MAX_DRAW_REQUESTS,
        )
        return TurnStep(send=self._session.more(self._ask))
