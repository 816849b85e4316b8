"""Who may begin what, and when: limits per bearer token. No I/O; the clock is handed in.

Each token has two buckets that fill at its rate up to one minute's worth: one of requests, one of
tokens. Work is charged when it is known, so a bucket may go into debt; nothing new is admitted
before the debt is paid, and streams that run rest until then. A long prompt thus passes once, and
then its client waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_server.auth import Identity
from edge_server.scheduler import BusyError


class RateError(BusyError):
    """This client is at one of its own limits; the edge itself may be idle."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits of one bearer token; 0 sets none."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0


class Bucket:
    """Holds at most one minute's worth."""

    __slots__ = ("_level", "_per_minute", "_since_s")

    def __init__(self, per_minute: float, now_s: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._since_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until this amount is there; 0 if it is. No amount waits for more than is held."""
        self._fill(now_s)
        missing = min(amount, self._per_minute) - self._level
        return max(0.0, missing / self._per_minute * 60.0)

    def take(self, amount: float, now_s: float) -> None:
        """Take it, on credit if need be."""
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        gain = (now_s - self._since_s) / 60.0 * self._per_minute
        self._level = min(self._per_minute, self._level + gain)
        self._since_s = now_s


class Admission:
    """The buckets of all clients."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.set_rates(rates)

    def set_rates(self, rates: Rates) -> None:
        """New limits; everyone starts with full buckets."""
        self._rates = rates
        self._requests: dict[Identity, Bucket] = {}
        self._tokens: dict[Identity, Bucket] = {}

    def begin(self, identity: Identity) -> None:
        """One generation begins; RateError if this client may not begin one now."""
        self.go_on(identity)
        if self._rates.requests_per_minute:
            now_s = self._clock()
            bucket = self._bucket(self._requests, identity, self._rates.requests_per_minute, now_s)
            wait_s = bucket.wait_s(1.0, now_s)
            if wait_s > 0:
                raise RateError("requests_per_minute of this client", wait_s)
            bucket.take(1.0, now_s)

    def go_on(self, identity: Identity) -> None:
        """One more step of a generation; RateError while this client is in debt."""
        wait_s = self.debt_s(identity)
        if wait_s > 0:
            raise RateError("tokens_per_minute of this client", wait_s)

    def debt_s(self, identity: Identity) -> float:
        """How long until this client may have one token more; 0 if now."""
        if not self._rates.tokens_per_minute:
            return 0.0
        now_s = self._clock()
        bucket = self._bucket(self._tokens, identity, self._rates.tokens_per_minute, now_s)
        return bucket.wait_s(1.0, now_s)

    def charge(self, identity: Identity, num_tokens: int) -> None:
        """The model runs that many tokens for this client."""
        if self._rates.tokens_per_minute:
            now_s = self._clock()
            bucket = self._bucket(self._tokens, identity, self._rates.tokens_per_minute, now_s)
            bucket.take(num_tokens, now_s)

    @staticmethod
    def _bucket(
        buckets: dict[Identity, Bucket], identity: Identity, per_minute: float, now_s: float
    ) -> Bucket:
        if identity not in buckets:
            buckets[identity] = Bucket(per_minute, now_s)
        return buckets[identity]
