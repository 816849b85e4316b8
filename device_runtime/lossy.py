"""Lossy modes: the device decides which tokens reach the edge at all, so the text is not the LLM's.

- `u-hlm` (Oh et al. 2024, arXiv 2412.12687): a drafted token is kept if re-samples of it at random
  temperatures mostly agree with it; else it goes up as a `dsd` block of one, and no bonus comes down.
- `threshold` (Hao et al. 2024): a token that the SLM finds improbable is replaced by one of the edge.
- `router` (Ding et al. 2024, arXiv 2404.14618): the prompt decides which model writes everything.

What was kept is marked `Origin.UNVERIFIED`. `METHODS` is the one registry of these and of all schemes:
what is lossy there needs the user's consent (`method_named`) and is marked in every report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Protocol

import numpy as np

from device_runtime.drafter import Drafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.law import Floats, Law, log_prob, prob_of
from device_runtime.protocol.randomness import Coins
from device_runtime.protocol.sampling import Logits, Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Place, Scheme
from device_runtime.turn import Committed, Counts, Origin, Turn, TurnStep


class Policy(Protocol):
    """Decides about one token after another."""

    sends_draft: ClassVar[bool]
    """Whether a token in doubt goes up to be judged; else the edge is asked for one of its own."""

    def keeps(self, logits: Logits, q: Law, token_id: int, coins: Coins) -> bool:
        """Whether the token drawn from q, the law of these logits, stands without the edge."""
        ...


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """`u-hlm`: keep a token if fewer than `threshold` of its re-samples disagree with it."""

    sends_draft: ClassVar[bool] = True
    threshold: float = 0.08
    """CU-HLM's fit of the chance of rejection, 0.815 u − 0.066, is 0 at u = 0.081."""
    num_samples: int = 20

    def keeps(self, logits: Logits, q: Law, token_id: int, coins: Coins) -> bool:
        indices = [coins.scaled(1.0, GRID) for _ in range(self.num_samples)]
        temperatures = 2.0 * GRID.level(np.array(indices))  # U(0, 2]
        # A re-sample disagrees with chance 1 − its probability: a flip says as much as a draw.
        disagreeing = coins.flip(1.0 - probs_at(logits, token_id, temperatures))
        return float(disagreeing.mean()) < self.threshold


def probs_at(logits: Logits, token_id: int, temperatures: Floats) -> Floats:
    """Probability (n,) of the token at each temperature (n,) > 0."""
    below_best = logits.astype(np.float64) - logits.max()
    scaled = below_best[None, :] / temperatures[:, None]  # (n, vocab)
    probs: Floats = np.exp(scaled[:, token_id]) / np.exp(scaled).sum(axis=1)
    return probs


@dataclass(frozen=True, slots=True)
class Improbable:
    """`threshold`: keep a token if its probability under q is at least `threshold`."""

    sends_draft: ClassVar[bool] = False
    threshold: float = 0.5
    """The paper's value is not known to us: choose by the quality that is needed."""

    def keeps(self, logits: Logits, q: Law, token_id: int, coins: Coins) -> bool:
        return prob_of(q, token_id) >= self.threshold


class Route(Enum):
    """Which model writes a whole generation."""

    DEVICE = "device"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Router:
    """`router`: the SLM writes if the end of the prompt surprises it by no more than `threshold`.

    A stand-in: the paper trains a classifier to predict the quality of the SLM's answer; here it is
    the SLM's own mean surprise at the last tokens of the prompt, in nats per token.
    """

    threshold: float = 4.0
    num_scored: int = 32

    def route(self, drafter: Drafter, prompt_ids: Sequence[int], num_ids: int) -> Route:
        """Reads the prompt up to its last but one token into the drafter, which must be empty."""
        surprise = self.surprise(drafter, prompt_ids, num_ids)
        return Route.DEVICE if surprise <= self.threshold else Route.EDGE

    def surprise(self, drafter: Drafter, prompt_ids: Sequence[int], num_ids: int) -> float:
        """Mean −ln q of the scored tokens, in nats; inf where the prompt is too short to score."""
        first = max(1, len(prompt_ids) - self.num_scored)
        total, begin = 0.0, 0
        for end in range(first, len(prompt_ids)):
            logits = drafter.append(np.array(prompt_ids[begin:end], np.int64))
            prob = prob_of(to_law(logits, Sampling(), (), num_ids), prompt_ids[end])
            total -= log_prob(prob)
            begin = end
        return total / (len(prompt_ids) - first) if begin else math.inf


@dataclass(frozen=True, slots=True)
class Method:
    """What `--scheme` may name."""

    scheme: Scheme
    """Judges what reaches the edge."""
    lossless: bool
    policy: Policy | Router | None = None


METHODS: dict[str, Method] = {
    **{name: Method(scheme, scheme.lossless) for name, scheme in SCHEMES.items()},
    "u-hlm": Method(SCHEMES["dsd"], lossless=False, policy=Uncertainty()),
    "threshold": Method(SCHEMES["dsd"], lossless=False, policy=Improbable()),
    "router": Method(SCHEMES["dsd"], lossless=False, policy=Router()),
}


def method_named(name: str, *, allow_lossy: bool = False, threshold: float | None = None) -> Method:
    """The method of this name; ConfigError if there is none, or if it is lossy and must not be."""
    if name not in METHODS:
        raise ConfigError(f"there is no scheme {name!r}; choose one of {', '.join(METHODS)}")
    method = METHODS[name]
    if not method.lossless and not allow_lossy:
        raise ConfigError(
            f"{name} keeps tokens that the LLM has not seen, so the text is not the LLM's; "
            "pass --lossy if that is meant"
        )
    if threshold is None:
        return method
    if not isinstance(method.policy, (Uncertainty, Improbable, Router)):
        raise ConfigError(f"{name} has no threshold; leave it out, or choose a lossy scheme")
    return replace(method, policy=replace(method.policy, threshold=threshold))


class LossyTurn(Turn):
    """A turn in which a policy lets tokens stand without the edge.

    A round is:

        step = turn.next()
        while step.send is not None:
            step = turn.receive(await link.exchange(step.send))
    """

    def __init__(
        self,
        session: DeviceSession,
        drafter: Drafter,
        generation: Generation,
        coins: Coins,
        counts: Counts,
        policy: Policy,
    ) -> None:
        super().__init__(session, drafter, generation, coins, counts)
        self._policy = policy

    def next(self) -> TurnStep:
        """One more token: it stands, or `send` asks the edge about it."""
        self._block, self._laws = [], []
        logits = self._next_logits()[: self._session.shared.num_ids]
        q = self._law_of(logits)
        place = Place(self._generation.seed, len(self._session.tokens))
        drafted = self._generation.scheme.draft(q, place, self._coins)
        if self._policy.keeps(logits, q, drafted.token_id, self._coins):
            self._session.append([drafted.token_id])
            self.counts.unverified += 1
            return TurnStep((Committed(drafted.token_id, Origin.UNVERIFIED),))
        if self._policy.sends_draft:
            self._block, self._laws = [drafted], [q]
        return TurnStep(send=self.encode(bonus=not self._policy.sends_draft))
