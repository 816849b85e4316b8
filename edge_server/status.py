"""How things stand: one snapshot, which `/v1/status` gives as JSON, `/metrics` and `tandem top` read.

It names sessions by number and says nothing of what is written in them. A client sees its own
sessions, and of all others only how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_server.tally import Tally

STATUS_PATH = "/v1/status"


@dataclass(frozen=True, slots=True)
class GpuStatus:
    """The device the model runs on, other programs on it included."""

    name: str
    used_bytes: int
    total_bytes: int
    utilization: float | None
    """Share of the last moments with a kernel running; None where nothing measures it."""


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One device's session."""

    number: int
    connected: bool
    tokens: int
    """Length of its text."""
    idle_s: float
    """Since its last answer."""
    tally: Tally
    alpha: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """All of it."""

    model: str
    ready: bool
    draining: bool
    replicas: int
    """Copies of the model that serve."""
    replicas_lost: int
    """Those that will serve no more until the edge is started again."""
    uptime_s: float
    queue_jobs: int
    completions: int
    batches: int
    """Since the start, as the two below."""
    batch_jobs: int
    batch_tokens: int
    total: Tally
    cache_capacity_tokens: int
    cache_used_tokens: int | None
    evictions: int
    gpu: GpuStatus | None
    connected: int
    """Sessions of all clients, as the next one."""
    waiting: int
    """For their device to come back."""
    sessions: tuple[SessionStatus, ...]
    """Those of the client that asks: what others do is none of its business."""
