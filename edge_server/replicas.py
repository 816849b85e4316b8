"""Several engines, each with a scheduler: a session stays with one for as long as that one lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from device_runtime.protocol.edge_states import Job, Result
from edge_server.job_times import JobTimes
from edge_server.scheduler import BusyError, Scheduler, StoppedError

S = TypeVar("S")

_LEAST_RETRY_S = 0.05


@dataclass(slots=True, eq=False)
class Place(Generic[S]):
    """Where a session's jobs run: on one replica, in a slot of its engine."""

    scheduler: Scheduler[S]
    slot: S
    tenant: bytes


class Replicas(Generic[S]):
    """What sessions and completions see of the engines; with one engine, too."""

    def __init__(self, schedulers: Sequence[Scheduler[S]], max_queue: int) -> None:
        """max_queue: jobs that may wait, over all replicas."""
        self.schedulers = tuple(schedulers)
        self._max_queue = max_queue

    @property
    def num_waiting(self) -> int:
        """Jobs that are not done yet."""
        return sum(scheduler.num_waiting for scheduler in self.schedulers)

    @property
    def healthy(self) -> bool:
        """Whether new sessions are welcome."""
        return any(scheduler.healthy for scheduler in self.schedulers)

    @property
    def num_stopped(self) -> int:
        """Replicas that have ended for good: the others have their sessions, and too much to do."""
        return sum(scheduler.stopped for scheduler in self.schedulers)

    async def none_left(self) -> None:
        """Wait until all have ended for good."""
        await asyncio.gather(*(scheduler.over.wait() for scheduler in self.schedulers))

    @property
    def max_cached(self) -> int:
        """Tokens that the caches can hold."""
        return sum(scheduler.engine.max_cached for scheduler in self.schedulers)

    @property
    def num_evictions(self) -> int:
        """How often a session lost its memory to others."""
        return sum(scheduler.engine.num_evictions for scheduler in self.schedulers)

    def set_max_queue(self, max_queue: int) -> None:
        """From now on; what waits already goes on waiting."""
        self._max_queue = max_queue

    def admit(self) -> None:
        """BusyError if one job more would be too many. To be asked before a job is made."""
        num_waiting = self.num_waiting
        if num_waiting >= self._max_queue:
            per_job_s = sum(s.seconds_per_job for s in self.schedulers) / len(self.schedulers) ** 2
            retry_after_s = max(_LEAST_RETRY_S, num_waiting * per_job_s)
            raise BusyError(f"{num_waiting} jobs wait", retry_after_s)

    def open(self, tenant: bytes = b"") -> Place[S]:
        """A place for a session, where the fewest are; those of one tenant may share beginnings."""
        scheduler = self._emptiest()
        return Place(scheduler, scheduler.open(tenant), tenant)

    def _emptiest(self) -> Scheduler[S]:
        """Of those that live, if any does."""
        return min(self.schedulers, key=lambda scheduler: (scheduler.stopped, scheduler.num_open))

    def close(self, place: Place[S]) -> None:
        """The session is over; its jobs must have been cancelled."""
        place.scheduler.close(place.slot)

    async def run(
        self,
        place: Place[S],
        job: Job,
        charge: Callable[[int], None] = lambda _: None,
        times: JobTimes | None = None,
    ) -> Result:
        """As of `Scheduler.run`. If the replica ends, another one does the job: it names all it needs.

        Only one other: the job itself may be what ended it.
        """
        try:
            return await place.scheduler.run(place.slot, job, charge, times)
        except StoppedError:
            scheduler = self._emptiest()
            if scheduler.stopped:
                raise
            self.close(place)
            place.scheduler, place.slot = scheduler, scheduler.open(place.tenant)
        # Nothing is charged for what was lost here.
        return await place.scheduler.run(place.slot, job, times=times)
