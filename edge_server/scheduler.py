"""Continuous batching: the next batch starts as soon as the last one ends.

One thread runs the engine, and with it, on a GPU, what jobs read off their rows; that touches nothing
of a session. Everything else happens on the event loop. So calls of the engine never overlap, and
sessions need no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from device_runtime.protocol.edge_states import Job, Result
from device_runtime.protocol.errors import ErrorCode, RemoteError, TandemError
from edge_server.blocks import BLOCK_LEN
from edge_server.engine import TargetEngine
from edge_server.failures import describe
from edge_server.job_times import Done, JobTimes, Ran
from edge_server.plan import ROUND_TOKENS, Limits, Share, Waiting, plan
from edge_server.runner import LostRunnerError

S = TypeVar("S")

CHECK_S = 1.0
"""How often an engine is looked at, which may be lost while it is idle."""

DOUBT_S = 10.0
"""How long an engine whose last job failed is taken for unhealthy, if nobody tries it."""

logger = logging.getLogger(__name__)


class BusyError(RemoteError):
    """The edge is at one of its limits."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(ErrorCode.BUSY, what)


class StoppedError(TandemError):
    """The scheduler has ended: no job of it runs any more, until the server is started again."""


@dataclass(slots=True, eq=False)
class _Request(Generic[S]):
    slot: S
    job: Job
    result: asyncio.Future[Result]
    charge: Callable[[int], None]
    times: JobTimes
    num_new: int | None = None
    """Tokens still to run; None before the engine was asked."""
    has_lost: bool = False
    """Whether its text lost its place in the cache while it waited."""
    since_s: float = field(default_factory=time.perf_counter)
    ran_s: float = 0.0
    """When its last chunk was done; 0 before the first."""


class Scheduler(Generic[S]):
    """Jobs of many sessions on one engine, while `serve` runs."""

    def __init__(
        self,
        engine: TargetEngine[S],
        *,
        max_rows: int,
        max_tokens: int,
        prefill_tokens: int,
        length_ratio: float = 0.0,
        on_batch: Callable[[Ran], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_batch is told of every batch that ran; the limits are those of `edge_server.plan`."""
        self.engine = engine
        self._clock = clock
        self.on_batch = on_batch
        self._limits = Limits(
            max_rows, max_tokens, prefill_tokens, engine.max_cached, BLOCK_LEN, length_ratio
        )
        self._waiting: deque[_Request[S]] = deque()
        self._closing: list[S] = []
        self._num_evictions = 0
        self._wake = asyncio.Event()
        self._loss: Exception | None = None
        self.seconds_per_job = 0.0
        """Of late, of the engine's time."""
        self.num_open = 0
        """Slots that were opened and not closed."""
        self._doubted_until_s = 0.0
        self.stopped = False
        """True once a bug, or the loss of the runner, has ended `serve`: no job will ever run again."""
        self.over = asyncio.Event()
        """Set when `serve` has tidied up after that."""

    @property
    def num_waiting(self) -> int:
        """Jobs that are not done yet."""
        return len(self._waiting)

    @property
    def healthy(self) -> bool:
        """False for a while after a job failed, or until one succeeds: an idle engine must be tried."""
        return not self.stopped and self._clock() >= self._doubted_until_s

    def open(self, tenant: bytes = b"") -> S:
        """A slot for a session; those of one tenant may share what their texts begin with."""
        self.num_open += 1
        return self.engine.open(tenant)

    def close(self, slot: S) -> None:
        """Free a slot's memory as soon as the engine is idle; its jobs must have been cancelled."""
        self.num_open -= 1
        if self.stopped:
            return
        self._closing.append(slot)
        self._wake.set()

    async def run(
        self,
        slot: S,
        job: Job,
        charge: Callable[[int], None] = lambda _: None,
        times: JobTimes | None = None,
    ) -> Result:
        """What the job reads off its rows. Cancelling the caller takes the job back.

        charge is told how many tokens the model must run for the job, when that is known; times
        holds where its time went, once it is done.
        """
        if self.stopped:
            raise StoppedError
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        request = _Request(slot, job, result, charge, times or JobTimes())
        self._waiting.append(request)
        self._wake.set()
        return await request.result

    async def serve(self) -> None:
        """Run batches until cancelled; a batch in hand is finished first."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._loss is None and self._tidy():
                    await self._run_batch(thread)
                self._raise_loss()
        except Exception:
            self.stopped = True
            for request in self._waiting:
                if not request.result.done():
                    request.result.set_exception(StoppedError())
            raise
        finally:
            watch.cancel()
            for request in self._waiting:
                request.result.cancel()
            self._waiting.clear()
            self._closing.clear()
            await asyncio.to_thread(thread.shutdown)
            if self.stopped:
                self.over.set()

    async def _watch(self) -> None:
        """Notice an engine's loss also when nobody has a job for it."""
        while self._loss is None:
            await asyncio.sleep(CHECK_S)
            try:
                self.engine.check()
            except Exception as error:  # noqa: BLE001 -- nobody can tell what it still does
                self._loss = error
                self._wake.set()

    def _raise_loss(self) -> None:
        if self._loss is not None:
            raise self._loss

    def _tidy(self) -> bool:
        """Free slots and drop what nobody waits for; whether a job is left. The engine is idle."""
        for slot in self._closing:
            self.engine.drop(slot)
        self._closing.clear()
        self._waiting = deque(r for r in self._waiting if not r.result.done())
        return bool(self._waiting)

    async def _run_batch(self, thread: ThreadPoolExecutor) -> None:
        """Plan, run, deliver."""
        requests = list(self._waiting)
        self._count_new(requests)
        shares = plan([_seen(request) for request in requests], self._limits)
        batch = [(requests[share.index], share) for share in shares]
        jobs = [(request.slot, _part(request, share)) for request, share in batch]
        start_s = time.perf_counter()
        results = await self._results(thread, jobs)
        seconds = time.perf_counter() - start_s
        self.seconds_per_job += 0.1 * (seconds / len(jobs) - self.seconds_per_job)
        done = tuple(
            Done(r.job.num_rows == 0, start_s - r.since_s, start_s + seconds - r.since_s)
            for (r, share), result in zip(batch, results, strict=True)
            if share.num_new == r.num_new and not isinstance(result, Exception)
        )
        self.on_batch(Ran(len(jobs), sum(share.num_new for share in shares), seconds, done))
        for (request, share), result in zip(batch, results, strict=True):
            request.times.queue_s += start_s - (request.ran_s or request.since_s)
            request.times.engine_s += seconds
            request.ran_s = start_s + seconds
            self._deliver(request, share, result)

    def _count_new(self, requests: Sequence[_Request[S]]) -> None:
        """Ask the engine how much each job must run: once, and again where slots were evicted."""
        evicted = self._num_evictions != self.engine.num_evictions
        self._num_evictions = self.engine.num_evictions
        for request in requests:
            before = request.num_new
            if before is None or evicted:
                request.num_new = self.engine.num_new(request.slot, request.job)
                if before is None:
                    request.charge(request.num_new)
                else:
                    request.has_lost |= request.num_new > before

    def _deliver(self, request: _Request[S], share: Share, result: Result | Exception) -> None:
        if request.result.done():
            return
        if isinstance(result, Exception):
            request.result.set_exception(result)
        elif share.num_new == request.num_new:
            request.result.set_result(result)
        else:
            assert request.num_new is not None
            request.num_new -= share.num_new
            # Its next chunk queues up behind the others. They took its room once and would again, and
            # nobody would ever be done: so it stays, as what runs in every batch is not evicted.
            if not request.has_lost:
                self._waiting.remove(request)
                self._waiting.append(request)

    async def _results(
        self, thread: ThreadPoolExecutor, jobs: Sequence[tuple[S, Job]]
    ) -> Sequence[Result | Exception]:
        """Of each job. If a batch fails, each job is tried alone: one may be at fault."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(thread, self._run_engine, jobs)
        except LostRunnerError:
            raise  # nothing will ever succeed: `serve` ends
        except Exception as error:  # noqa: BLE001 -- whatever it is, the others must go on
            logger.error("a batch of %d jobs failed: %s", len(jobs), describe(error))  # noqa: TRY400
            if len(jobs) == 1:
                self._doubted_until_s = self._clock() + DOUBT_S
                return [error]
        else:
            self._doubted_until_s = 0.0
            return found
        # Out of the handler: the error holds the batch's tensors, and memory may be what was lacking.
        alone = [await self._results(thread, [job]) for job in jobs]
        results = [result for (result,) in alone]
        if not all(isinstance(result, Exception) for result in results):
            self._doubted_until_s = 0.0
        return results

    def _run_engine(self, jobs: Sequence[tuple[S, Job]]) -> list[Result]:
        """In the engine's thread. A future cannot hold StopIteration: it would never be done."""
        try:
            return self.engine.run(jobs)
        except StopIteration as error:
            raise RuntimeError("the engine ran out of an iterator") from error


def _seen(request: _Request[S]) -> Waiting:
    """A request as the plan sees it."""
    assert request.num_new is not None
    job = request.job
    drafts = max(0, job.judging.gamma) if job.judging is not None else 0  # an engine's own
    return Waiting(request.num_new, len(job.tokens) + drafts, request.num_new <= ROUND_TOKENS)


def _part(request: _Request[S], share: Share) -> Job:
    """The part of a job that the plan gives it: the whole job, or a chunk without rows."""
    assert request.num_new is not None
    num_left = request.num_new - share.num_new
    if num_left == 0:
        return request.job
    tokens = request.job.tokens
    return Job(tokens[: max(0, len(tokens) - num_left)], 0)  # an engine's own drafts are left, too
