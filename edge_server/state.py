"""What lives as long as the server and all routes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from device_runtime.protocol.edge_states import EdgeFacts
from edge_server.admission import Admission, RateError
from edge_server.auth import Identity, KnownTokens
from edge_server.completion import Completion
from edge_server.config import EdgeConfig
from edge_server.connection import Connection
from edge_server.front import Front
from edge_server.metrics import Metrics
from edge_server.replicas import Replicas
from edge_server.scheduler import BusyError
from edge_server.sessions import BUSY_RETRY_S, Registry
from edge_server.status import GpuStatus, Status
from edge_server.tally import BatchTally
from edge_server.text import EdgeText

_COMPLETION_RETRY_S = 1.0
"""Completions come and go; a place is soon free."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What only the engine at hand can tell; None where it cannot."""

    cache_used_tokens: Callable[[], int] | None = None
    gpu: Callable[[], GpuStatus] | None = None


@dataclass(slots=True)
class Edge:
    """The server's state. Settings are read where they are used, so that a reload counts."""

    facts: EdgeFacts
    config: EdgeConfig
    tokens: KnownTokens
    replicas: Replicas[Any]
    registry: Registry[Any]
    admission: Admission
    metrics: Metrics
    front: Front[Any]
    batches: BatchTally
    text: EdgeText | None
    """None serves sessions only."""
    probes: Probes
    connections: dict[Connection[Any], Identity] = field(default_factory=dict)
    completions: set[Completion[Any]] = field(default_factory=set)
    """Those that write; a few more may still be read."""
    places: list[Identity] = field(default_factory=list)
    """Of completions: whose they are, from before their body is parsed until they are over."""
    arriving: list[Identity] = field(default_factory=list)
    """Of bodies on their way: whose they are."""
    closing: set[asyncio.Future[None]] = field(default_factory=set)
    """Connections being ended, because their bearer token is gone."""
    draining: bool = False
    started_s: float = field(default_factory=time.monotonic)
    no_completions: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.no_completions.set()

    @property
    def ready(self) -> bool:
        """Whether new sessions are welcome."""
        return self.replicas.healthy and not self.draining

    def check_connections(self, identity: Identity) -> None:
        """BusyError where one more is too many: twice the sessions, as some are being resumed."""
        most = 2 * self.config.max_sessions, 2 * self.config.max_sessions_per_token
        clients = list(self.connections.values())
        _check_room(clients, identity, *most, "connections", "are open", BUSY_RETRY_S)

    @contextmanager
    def arrival(self, identity: Identity) -> Iterator[None]:
        """While a body is on its way; BusyError where too many are: each may hold megabytes."""
        most = 2 * self.config.max_completions, 2 * self.config.max_completions_per_token
        _check_room(
            self.arriving, identity, *most, "bodies", "are on their way", _COMPLETION_RETRY_S
        )
        self.arriving.append(identity)
        try:
            yield
        finally:
            self.arriving.remove(identity)

    @contextmanager
    def place(self, identity: Identity) -> Iterator[None]:
        """For one completion, before any work is done for it; BusyError if it may not begin now."""
        most = self.config.max_completions, self.config.max_completions_per_token
        _check_room(self.places, identity, *most, "completions", "run", _COMPLETION_RETRY_S)
        self.front.admit(identity, begins=True)
        self.places.append(identity)
        self.no_completions.clear()
        try:
            yield
        finally:
            self.places.remove(identity)
            if not self.places:
                self.no_completions.set()

    def status(self, identity: Identity | None = None) -> Status:
        """How things stand, with the sessions of this client if there is one that asks."""
        probes, batches = self.probes, self.batches
        connected = self.registry.num_connected
        return Status(
            model=self.facts.model,
            ready=self.ready,
            draining=self.draining,
            replicas=len(self.replicas.schedulers) - self.replicas.num_stopped,
            replicas_lost=self.replicas.num_stopped,
            uptime_s=time.monotonic() - self.started_s,
            queue_jobs=self.replicas.num_waiting,
            completions=len(self.completions),
            batches=batches.batches,
            batch_jobs=batches.jobs,
            batch_tokens=batches.tokens,
            total=self.metrics.total,
            cache_capacity_tokens=self.replicas.max_cached,
            cache_used_tokens=probes.cache_used_tokens() if probes.cache_used_tokens else None,
            evictions=self.replicas.num_evictions,
            gpu=probes.gpu() if probes.gpu else None,
            connected=connected,
            waiting=len(self.registry) - connected,
            sessions=() if identity is None else self.registry.statuses(identity),
        )


def _check_room(
    clients: Sequence[Identity], identity: Identity, most: int, most_own: int, things: str,
    happen: str, retry_after_s: float,
) -> None:  # fmt: skip
    """RateError where this client, BusyError where all have as many things as may happen at a time.

    clients: whose those are that happen; most_own: 0 sets no limit of its own.
    """
    own = clients.count(identity)
    if 0 < most_own <= own:
        raise RateError(f"{own} {things} of this client {happen}", retry_after_s)
    if len(clients) >= most:
        raise BusyError(f"{len(clients)} {things} {happen}", retry_after_s)


EDGE = web.AppKey("edge", Edge)
