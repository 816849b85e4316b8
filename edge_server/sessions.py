"""The sessions this edge knows: whose they are, and which still wait for their client to return."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts
from edge_server.admission import RateError
from edge_server.auth import Identity
from edge_server.replicas import Place, Replicas
from edge_server.residual import scheme_here
from edge_server.scheduler import BusyError
from edge_server.status import SessionStatus
from edge_server.tally import Tally

S = TypeVar("S")

RESUME_TOKEN_BYTES = 16
BUSY_RETRY_S = 5.0

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """A connection that serves a session."""

    async def lose_session(self) -> None:
        """Another connection takes over: stop, and return when nothing touches the session."""
        ...


@dataclass(slots=True, eq=False)
class Held(Generic[S]):
    """A session and what goes with it."""

    number: int
    """For logs: says nothing about the client."""
    session: EdgeSession
    place: Place[S]
    identity: Identity
    owner: Owner | None = None
    detached_s: float = 0.0
    """Since when it has no owner."""
    answered_s: float = 0.0
    """When its last message was answered."""
    tally: Tally = field(default_factory=Tally)


class Registry(Generic[S]):
    """All sessions, by resume token. At most `max_sessions`, waiting ones included."""

    def __init__(
        self,
        facts: EdgeFacts,
        replicas: Replicas[S],
        *,
        max_sessions: int,
        resume_ttl_s: float,
        max_per_client: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._facts = facts
        self._replicas = replicas
        self.set_limits(max_sessions, resume_ttl_s, max_per_client)
        self._clock = clock
        self._held: dict[bytes, Held[S]] = {}
        self._num_opened = 0

    def set_limits(self, max_sessions: int, resume_ttl_s: float, max_per_client: int) -> None:
        """From now on; sessions that are open stay. max_per_client: 0 sets no limit of its own."""
        self._max_sessions = max_sessions
        self._resume_ttl_s = resume_ttl_s
        self._max_per_client = max_per_client

    def __len__(self) -> int:
        return len(self._held)

    def open(self, identity: Identity, owner: Owner) -> Held[S]:
        """A new session; one that waits for its client makes room, the longest waiting first.

        BusyError where all sessions are in use, RateError where all of this client's are.
        """
        self.expire()
        own = [held for held in self._held.values() if held.identity == identity]
        if 0 < self._max_per_client <= len(own) and not self._make_room(own):
            raise RateError(f"{len(own)} sessions of this client are open", BUSY_RETRY_S)
        everyone = list(self._held.values())
        if len(everyone) >= self._max_sessions and not self._make_room(everyone):
            raise BusyError(f"{len(everyone)} sessions are open", BUSY_RETRY_S)
        token = secrets.token_bytes(RESUME_TOKEN_BYTES)
        self._num_opened += 1
        session = EdgeSession(self._facts, token, scheme_of=scheme_here)
        held = Held(self._num_opened, session, self._replicas.open(identity), identity, owner)
        held.answered_s = self._clock()
        self._held[token] = held
        return held

    def _make_room(self, candidates: Sequence[Held[S]]) -> bool:
        """Forget the one that has waited longest for its client; False if none waits."""
        waiting = [held for held in candidates if held.owner is None]
        if waiting:
            self.forget(min(waiting, key=lambda held: held.detached_s))
        return bool(waiting)

    def answered(self, held: Held[S]) -> None:
        """A message of the session was answered now."""
        held.answered_s = self._clock()

    @property
    def num_connected(self) -> int:
        """Sessions whose device is there."""
        return sum(held.owner is not None for held in self._held.values())

    def statuses(self, identity: Identity) -> tuple[SessionStatus, ...]:
        """Every session of this client, in the order in which they were opened."""
        now_s = self._clock()
        return tuple(
            SessionStatus(
                number=held.number,
                connected=held.owner is not None,
                tokens=len(held.session.tokens),
                idle_s=now_s - held.answered_s,
                tally=held.tally,
                alpha=held.tally.alpha,
            )
            for held in self._held.values()
            if held.identity == identity
        )

    def find(self, resume_token: bytes, identity: Identity) -> Held[S] | None:
        """The session of this token, if it is this client's."""
        self.expire()
        held = self._held.get(resume_token)
        return held if held is not None and held.identity == identity else None

    def detach(self, held: Held[S], owner: Owner) -> None:
        """The connection is gone; the session waits for its client, unless another has it now."""
        if held.owner is owner:
            held.owner = None
            held.detached_s = self._clock()

    def forget(self, held: Held[S]) -> None:
        """The session is over."""
        if self._held.pop(held.session.resume_token, None) is not None:
            self._replicas.close(held.place)

    def expire(self) -> None:
        """Forget sessions that have waited for too long."""
        oldest_s = self._clock() - self._resume_ttl_s
        late = [h for h in self._held.values() if h.owner is None and h.detached_s < oldest_s]
        for held in late:
            logger.info("session %d was not resumed", held.number)
            self.forget(held)
