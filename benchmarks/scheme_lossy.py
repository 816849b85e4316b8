"""Answers of the lossy methods in `tandem bench schemes`, and how far their law is from p.

What a policy does at a place is known, so the law that it writes there is computed, not counted: with
q̂ the law that the device draws from, k(x) the chance that it keeps x, and p the LLM's law,

- `threshold`: q̂·k + (1 − Σ q̂·k)·p, since in the place of a token in doubt comes one of the edge;
- `u-hlm`: q̂·k, and of the rest, q̂·(1 − k), what `dsd` makes of it: min(1, p/q̂) of it stands, and
  norm(max(0, p − q̂)) replaces what falls;
- `router`: q where the SLM writes, p where the LLM does.

Their total variation distance to p is meaned over places of the text that was written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scheme_rounds import Answer
from benchmarks.scheme_watch import TimesLaws
from device_runtime.lossy import (
    Improbable,
    LossyTurn,
    Method,
    Policy,
    Route,
    Router,
    Uncertainty,
)
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.law import ArrayLaw, Floats, Ids, Law
from device_runtime.protocol.sampling import Logits, to_law

EVERY = 3
"""Of so many places one is measured: the LLM runs there for the measurement alone."""
NUM_TEMPERATURES = 20


def answer_kind(method: Method) -> type[Answer]:
    """What writes answers of the method."""
    if method.policy is None:
        return Answer
    return RoutedAnswer if isinstance(method.policy, Router) else LossyAnswer


class LossyAnswer(Answer):
    """An answer of which a policy keeps tokens on the device."""

    def make_turn(self) -> LossyTurn:
        policy: Any = self.method.policy
        turn = TimedLossyTurn(
            self.session, self.drafter, self.generation, self.coins, self.measured.counts, policy
        )
        turn.measured = self.measured
        self.probe = self.pair.engine.open()
        self.lossy_turn = turn
        return turn

    def begin_round(self, gamma: int) -> None:
        """Tokens up to the first one in doubt, or to the end."""
        self.start()
        while self.data is None and self.num_new < self.num_wanted:
            text = tuple(self.session.tokens.ids)
            self.data = self.lossy_turn.next().send
            if len(text) % EVERY == 0:
                self.measured.distances.append(self._distance(text))

    def _distance(self, text: tuple[int, ...]) -> float:
        p = p_after(self, text)
        drawn_from = self.scheme.drafted_at(len(text)).evidence.law()
        policy: Any = self.method.policy
        return law_distance(policy, self.lossy_turn.logits, self.lossy_turn.q, drawn_from, p)

    def close(self) -> None:
        super().close()
        self.pair.engine.drop(self.probe)


class TimedLossyTurn(TimesLaws, LossyTurn):
    """Notes the row and the law of each token."""

    logits: Logits
    q: Law

    def _law_of(self, logits: Logits) -> Law:
        self.logits, self.q = logits, super()._law_of(logits)
        return self.q


class RoutedAnswer(Answer):
    """An answer that one model writes alone: the SLM at no message, or the LLM as a stream."""

    def _open(self, prompt: Any) -> None:
        super()._open(prompt)
        router = self.method.policy
        assert isinstance(router, Router)
        self.route = router.route(self.drafter, prompt, self.pair.num_ids)
        self.drafter.truncate(0)
        self.probe = self.pair.engine.open()
        self._next: Job | None = None
        """What the edge computes next for the stream."""

    def begin_round(self, gamma: int) -> None:
        """One token of the SLM, or the next message of the stream."""
        self.start()
        if self.route is Route.EDGE:
            self.data = self.session.stream(self.num_wanted) if self._next is None else b""
            return
        text = self.session.tokens.ids
        logits = self.drafter.append(np.array(text[self.drafter.num_tokens :], np.int64))
        q = to_law(logits, self.generation.sampling, ())
        if len(text) % EVERY == 0:
            self.measured.distances.append(total_variation(q, p_after(self, tuple(text))))
        self.session.append(self.coins.draw(q, 1).tolist())
        self.measured.counts.unverified += 1

    def receive(self) -> Job:
        if self._next is None:
            return super().receive()
        self.job = self._next
        return self.job

    def settle(self, logits: NDArray[np.float32]) -> None:
        step = self.judged(logits)
        self._next, reply = step.job, step.reply
        assert reply is not None
        self.down.append(len(reply))
        if len(self.session.tokens) % EVERY == 0:
            self.measured.distances.append(0.0)
        self.session.receive_tokens(reply)
        self.measured.counts.bonus += 1
        self.data = None

    def end_round(self) -> None:
        """Bytes alone: there is no block to encode or judge."""
        self.measured.bytes_up.append(tuple(self.up))
        self.measured.bytes_down.append(tuple(self.down))
        self.measured.rejecting.append(False)

    def close(self) -> None:
        super().close()
        self.pair.engine.drop(self.probe)


def p_after(answer: LossyAnswer | RoutedAnswer, text: tuple[int, ...]) -> ArrayLaw:
    """The LLM's law after a text, whoever wrote it."""
    ((row,),) = answer.pair.logits([(answer.probe, Job(text, 1))])
    wide = answer.pair.wide
    return to_law(row if wide is None else wide.widen(row, "p"), answer.generation.sampling, ())


def law_distance(policy: Policy, logits: Logits, q: Law, drawn_from: ArrayLaw, p: Law) -> float:
    """Total variation distance to p of what the policy writes at one place."""
    num_ids = len(logits)
    of_p, of_draft = dense(p, num_ids), dense(drawn_from, num_ids)
    kept = of_draft * kept_chances(policy, logits, dense(q, num_ids), drawn_from.ids)
    if policy.sends_draft:
        in_doubt = of_draft - kept
        stands = np.divide(of_p, of_draft, out=np.ones(num_ids), where=of_draft > 0)
        stands = in_doubt * np.minimum(1.0, stands)
        above = np.maximum(0.0, of_p - of_draft)
        falls = max(0.0, float(in_doubt.sum() - stands.sum()))
        written = kept + stands + (falls / above.sum() * above if falls > 0 else 0.0)
    else:
        written = kept + (1.0 - kept.sum()) * of_p
    return float(np.abs(written - of_p).sum() / 2)


def kept_chances(policy: Policy, logits: Logits, of_q: Floats, ids: Ids) -> Floats:
    """The chance (vocab,) that a token is kept; of the given ids, 0 elsewhere."""
    chances = np.zeros(len(of_q))
    if isinstance(policy, Improbable):
        chances[ids] = of_q[ids] >= policy.threshold
    elif isinstance(policy, Uncertainty):
        chances[ids] = _agreeing(policy, logits)[ids]
    else:
        raise TypeError(f"no formula for {type(policy).__name__}")
    return chances


def _agreeing(policy: Uncertainty, logits: Logits) -> Floats:
    """Each re-sample disagrees with chance d(x), whatever the others do: a binomial count."""
    temperatures = 2.0 * (np.arange(NUM_TEMPERATURES) + 0.5) / NUM_TEMPERATURES
    agreeing = np.zeros(len(logits))
    for temperature in temperatures:
        weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
        agreeing += weights / weights.sum() / NUM_TEMPERATURES
    count = policy.num_samples
    few = [i for i in range(count + 1) if i / count < policy.threshold]
    chances = np.zeros(len(logits))
    for i in few:
        chances += math.comb(count, i) * (1 - agreeing) ** i * agreeing ** (count - i)
    return np.minimum(1.0, chances, out=chances)


def total_variation(one: ArrayLaw, other: ArrayLaw) -> float:
    """½ Σ |one − other|."""
    ids = np.union1d(one.ids, other.ids)
    return float(np.abs(one.prob(ids) - other.prob(ids)).sum() / 2)


def dense(law: Law, num_ids: int) -> Floats:
    """Probabilities (num_ids,) of all ids."""
    row = np.zeros(num_ids)
    ids = law.support()
    row[ids] = law.prob(ids)
    return row
