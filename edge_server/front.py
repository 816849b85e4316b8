"""What stands before the engines, for sessions and completions alike: limits, charges, counts."""

from __future__ import annotations

from functools import partial
from typing import Generic, TypeVar

from device_runtime.protocol.edge_states import Job, Outcome, Result
from edge_server.admission import Admission
from edge_server.auth import Identity
from edge_server.job_times import JobTimes
from edge_server.metrics import Metrics
from edge_server.replicas import Place, Replicas
from edge_server.scheduler import BusyError
from edge_server.tally import Tally
from edge_server.trace import Trace

S = TypeVar("S")

PACE_S = 0.25
"""How often a stream that waits for its client's rate looks whether something else has come."""


class Front(Generic[S]):
    """Jobs go through here to the engines; their results are counted here."""

    def __init__(
        self, replicas: Replicas[S], admission: Admission, metrics: Metrics, trace: Trace
    ) -> None:
        self.replicas = replicas
        self.trace = trace
        self._admission = admission
        self._metrics = metrics

    def admit(self, identity: Identity, *, begins: bool) -> None:
        """BusyError where the queue is full, or this client is at its limit.

        begins: a generation begins here; otherwise it goes on.
        """
        self.replicas.admit()  # first: what is refused here must cost nothing
        if begins:
            self._admission.begin(identity)
        else:
            self._admission.go_on(identity)

    def debt_s(self, identity: Identity) -> float:
        """For how long the client's streams must rest until they are within its rate; 0 if they are."""
        return self._admission.debt_s(identity)

    def refused(self, error: BusyError) -> None:
        """Count that somebody was put off."""
        self._metrics.refused(error)

    async def run(
        self, place: Place[S], job: Job, identity: Identity, times: JobTimes | None = None
    ) -> Result:
        """The job's result, charged to the client. Cancelling the caller takes the job back."""
        charge = partial(self._admission.charge, identity)
        return await self.replicas.run(place, job, charge, times)

    def answered(self, tally: Tally, outcome: Outcome | None) -> None:
        """Count what became of a job, if it settled anything."""
        if outcome is not None:
            tally.add(outcome)
            self._metrics.total.add(outcome)
