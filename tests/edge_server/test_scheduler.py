"""Continuous batching: what waits runs together, nobody is lost, one failure is one job's."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from device_runtime.protocol.edge_states import Job, Result
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.verify import RoundKey
from edge_server.blocks import BLOCK_LEN
from edge_server.scheduler import DOUBT_S, Scheduler, StoppedError
from tests.table_engine import TableEngine, TableSlot
from tests.table_model import random_table

ENGINE_TABLE = random_table(20, seed=1)


def a_scheduler(engine: TableEngine, **limits: int) -> Scheduler[TableSlot]:
    settings: Any = {"max_rows": 8, "max_tokens": 300, "prefill_tokens": 100}
    return Scheduler(engine, **(settings | limits))


@asynccontextmanager
async def serving(scheduler: Scheduler[TableSlot]) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.serve())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


def start(*works: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(work) for work in works]


async def at_work(
    engine: TableEngine, scheduler: Scheduler[TableSlot], job: Job
) -> list[asyncio.Future[Any]]:
    """The job alone, begun: it keeps the engine until its gate is set."""
    engine.gate.clear()
    jobs = start(scheduler.run(scheduler.open(), job))
    await until(lambda: len(engine.batches) == 1)
    return jobs


async def test_jobs_that_come_while_a_batch_runs_form_the_next_one() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        first = await at_work(engine, scheduler, Job((1, 2), 1))
        later = start(*(scheduler.run(scheduler.open(), Job((3, i), 1)) for i in range(5)))
        await until(lambda: scheduler.num_waiting == 6)
        engine.gate.set()
        await asyncio.gather(*first, *later)
    assert [len(batch) for batch in engine.batches] == [1, 5]
    assert scheduler.num_waiting == 0


async def test_a_long_prompt_runs_in_chunks_and_gives_its_rows_at_the_end() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)
    prompt = tuple(i % 20 for i in range(700))
    async with serving(scheduler):
        rows = await scheduler.run(scheduler.open(), Job(prompt, 2))
    assert [(len(job.tokens), job.num_rows) for (job,) in engine.batches] == [
        (300, 0),
        (600, 0),
        (700, 2),
    ]
    assert all(job.tokens == prompt[: len(job.tokens)] for (job,) in engine.batches)
    assert rows is not None


async def test_rounds_run_beside_the_chunks_of_a_prompt() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        prompt = await at_work(engine, scheduler, Job((0,) * 1000, 0))
        rounds = start(*(scheduler.run(scheduler.open(), Job((1, i), 1)) for i in range(3)))
        await until(lambda: scheduler.num_waiting == 4)
        engine.gate.set()
        await asyncio.gather(*prompt, *rounds)
    sizes = [sorted(len(job.tokens) for job in batch) for batch in engine.batches]
    assert sizes == [[300], [2, 2, 2, 400], [700], [1000]]


async def test_the_job_of_a_vanished_session_is_dropped() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        engine.gate.clear()
        in_hand, waiting, other = start(
            scheduler.run(scheduler.open(), Job((1,), 1)),
            scheduler.run(scheduler.open(), Job((2,), 1)),
            scheduler.run(scheduler.open(), Job((3,), 1)),
        )
        await until(lambda: len(engine.batches) == 1)
        late, survivor = start(
            scheduler.run(scheduler.open(), Job((4,), 1)),
            scheduler.run(scheduler.open(), Job((5,), 1)),
        )
        await asyncio.sleep(0)
        for job in (in_hand, late):
            job.cancel()
        engine.gate.set()
        await asyncio.gather(waiting, other, survivor)
    assert [job.tokens for batch in engine.batches for job in batch] == [(1,), (2,), (3,), (5,)]


class FullError(Exception):
    pass


class RunsOutOfMemory(TableEngine):
    """Fails with two jobs or more; notes whether the error is still there at the next try."""

    def __init__(self) -> None:
        super().__init__(ENGINE_TABLE)
        self.error: weakref.ref[Exception] | None = None
        self.was_held: list[bool] = []

    def run(self, batch: Sequence[tuple[TableSlot, Job]]) -> list[Result]:
        if len(batch) > 1:
            raise self._noted(FullError())
        if self.error is not None:
            self.was_held.append(self.error() is not None)
        return super().run(batch)

    def _noted(self, error: Exception) -> Exception:
        self.error = weakref.ref(error)
        return error


async def test_a_failed_batch_gives_its_memory_back_before_its_jobs_are_tried_alone() -> None:
    engine = RunsOutOfMemory()
    scheduler = a_scheduler(engine)
    gc.disable()
    try:
        async with serving(scheduler):
            first = await at_work(engine, scheduler, Job((1,), 1))
            jobs = start(*(scheduler.run(scheduler.open(), Job((i,), 1)) for i in (2, 3)))
            await until(lambda: scheduler.num_waiting == 3)
            engine.gate.set()
            await asyncio.gather(*first, *jobs)
    finally:
        gc.enable()
    assert engine.was_held == [False, False]


async def test_a_failure_is_only_the_job_s_that_causes_it() -> None:
    engine = TableEngine(ENGINE_TABLE)
    engine.fail, engine.poison = RuntimeError("out of luck"), 13
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        good, bad, also_good = start(
            scheduler.run(scheduler.open(), Job((1,), 1)),
            scheduler.run(scheduler.open(), Job((2, 13), 1)),
            scheduler.run(scheduler.open(), Job((3,), 1)),
        )
        with pytest.raises(RuntimeError, match="out of luck"):
            await bad
        await asyncio.gather(good, also_good)
        assert scheduler.healthy
        assert [len(batch) for batch in engine.batches] == [3, 1, 1, 1]
        with pytest.raises(RuntimeError):
            await scheduler.run(scheduler.open(), Job((13,), 1))
        assert not scheduler.healthy


async def test_a_slot_is_freed_when_the_engine_is_idle() -> None:
    engine = TableEngine(ENGINE_TABLE)  # its drop() asserts that nothing runs
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        slot = scheduler.open()
        engine.gate.clear()
        (job,) = start(scheduler.run(slot, Job((1, 2, 3), 1)))
        await until(lambda: len(engine.batches) == 1)
        job.cancel()
        scheduler.close(slot)
        await asyncio.sleep(0.02)
        assert engine.dropped == []
        engine.gate.set()
        await until(lambda: engine.dropped == [slot])
        assert slot.tokens == ()


async def test_a_job_that_waits_while_its_slot_is_evicted_is_counted_again() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine, max_rows=1)
    slot, text = scheduler.open(), (4,) * 900
    async with serving(scheduler):
        await scheduler.run(slot, Job(text, 0))
        engine.gate.clear()
        num_batches = len(engine.batches)
        works = start(
            scheduler.run(scheduler.open(), Job((1,), 1)), scheduler.run(slot, Job(text, 1))
        )
        await until(lambda: len(engine.batches) == num_batches + 1)
        slot.tokens = ()  # as if the other job had needed the room
        engine.num_evictions += 1
        engine.gate.set()
        await asyncio.gather(*works)
    assert [len(batch[0].tokens) for batch in engine.batches[-4:]] == [1, 300, 600, 900]


async def test_who_still_waits_at_the_end_is_told() -> None:
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        engine.gate.clear()
        jobs = start(*(scheduler.run(scheduler.open(), Job((i,), 1)) for i in range(2)))
        await until(lambda: len(engine.batches) == 1)
        asyncio.get_running_loop().call_later(0.05, engine.gate.set)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.gather(*jobs)


async def test_a_bug_of_the_scheduler_itself_fails_all_jobs_and_those_to_come() -> None:
    """Nobody waits for an answer that no thread will ever give."""
    engine = TableEngine(ENGINE_TABLE)
    scheduler = a_scheduler(engine)

    def on_batch(_: object) -> None:
        raise KeyError("a bug")

    scheduler.on_batch = on_batch
    task = asyncio.create_task(scheduler.serve())
    engine.gate.clear()
    jobs = start(*(scheduler.run(scheduler.open(), Job((i,), 1)) for i in range(2)))
    await until(lambda: len(engine.batches) == 1)
    jobs += start(scheduler.run(scheduler.open(), Job((3,), 1)))
    await until(lambda: scheduler.num_waiting == 3)
    engine.gate.set()
    for job in jobs:
        with pytest.raises(StoppedError):
            await asyncio.wait_for(job, 5)
    with pytest.raises(KeyError):
        await task
    assert not scheduler.healthy
    with pytest.raises(StoppedError):
        await asyncio.wait_for(scheduler.run(scheduler.open(), Job((1,), 1)), 5)


async def test_the_room_for_an_engine_s_own_drafts_is_planned() -> None:
    """A batch of streams fits into the cache with what will be drafted for them."""
    engine = TableEngine(ENGINE_TABLE, max_cached=4 * BLOCK_LEN)
    scheduler = a_scheduler(engine)
    text = tuple(i % 20 for i in range(BLOCK_LEN))
    judging = Judging(scheme_named("coupled"), Sampling(), 1, RoundKey(1, 0, 0), text, gamma=4)
    async with serving(scheduler):
        first = await at_work(engine, scheduler, Job((1,), 1))
        later = start(
            *(scheduler.run(scheduler.open(), Job(text, 1, judging=judging)) for _ in range(4))
        )
        await until(lambda: scheduler.num_waiting == 5)
        engine.gate.set()
        await asyncio.gather(*first, *later)
    assert [len(batch) for batch in engine.batches] == [1, 2, 2]


class Drafts(TableEngine):
    """Counts what it will draft, as an engine with a draft model does."""

    def num_new(self, slot: TableSlot, job: Job) -> int:
        return super().num_new(slot, job) + (job.judging.gamma if job.judging else 0)


async def test_a_chunk_smaller_than_the_drafts_takes_no_tokens() -> None:
    """The plan leaves two tokens to the stream, and its text had to fit beside the prompt."""
    engine = Drafts(ENGINE_TABLE)
    scheduler = a_scheduler(engine, prefill_tokens=150)
    text = (1,) * 200
    judging = Judging(scheme_named("coupled"), Sampling(), 1, RoundKey(1, 0, 0), text, gamma=4)
    async with serving(scheduler):
        first = await at_work(engine, scheduler, Job((1,), 1))
        later = start(
            scheduler.run(scheduler.open(), Job((2,), 1)),
            scheduler.run(scheduler.open(), Job((3,) * 148, 0)),
            scheduler.run(scheduler.open(), Job(text, 1, judging=judging)),
        )
        await until(lambda: scheduler.num_waiting == 4)
        engine.gate.set()
        await asyncio.gather(*first, *later)
    assert [[len(job.tokens) for job in batch] for batch in engine.batches] == [
        [1],
        [1, 148, 0],
        [200],
    ]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_an_idle_engine_whose_last_job_failed_is_tried_again() -> None:
    """Where it is not ready nobody comes, so that nothing would ever show that it works."""
    engine, clock = TableEngine(ENGINE_TABLE), Clock()
    engine.fail, engine.poison = RuntimeError("out of luck"), 13
    scheduler = Scheduler(engine, max_rows=8, max_tokens=300, prefill_tokens=100, clock=clock)
    async with serving(scheduler):
        with pytest.raises(RuntimeError):
            await scheduler.run(scheduler.open(), Job((13,), 1))
        healthy_at = {}
        for clock.now_s in (DOUBT_S - 1, DOUBT_S):
            healthy_at[clock.now_s] = scheduler.healthy
        assert healthy_at == {DOUBT_S - 1: False, DOUBT_S: True}
        with pytest.raises(RuntimeError):
            await scheduler.run(scheduler.open(), Job((13,), 1))
        assert not scheduler.healthy
        await scheduler.run(scheduler.open(), Job((1,), 1))
        assert scheduler.healthy


async def test_a_bad_job_behind_good_ones_leaves_the_engine_healthy() -> None:
    engine = TableEngine(ENGINE_TABLE)
    engine.fail, engine.poison = RuntimeError("out of luck"), 13
    scheduler = a_scheduler(engine)
    async with serving(scheduler):
        good, bad = start(
            scheduler.run(scheduler.open(), Job((1,), 1)),
            scheduler.run(scheduler.open(), Job((2, 13), 1)),
        )
        with pytest.raises(RuntimeError):
            await bad
        await good
        assert [len(batch) for batch in engine.batches] == [2, 1, 1]
        assert scheduler.healthy
