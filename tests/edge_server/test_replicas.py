"""Several engines behind one front: sessions are spread, stay where they are, and share one queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ErrorCode
from edge_server.replicas import Replicas
from edge_server.runner import LostRunnerError
from edge_server.scheduler import BusyError, Scheduler, StoppedError
from tests.table_engine import TableEngine, TableSlot
from tests.table_model import random_table

TABLE = random_table(20, seed=1)


def replicas_of(
    *engines: TableEngine, max_queue: int = 100, max_rows: int = 8
) -> Replicas[TableSlot]:
    schedulers = [
        Scheduler(engine, max_rows=max_rows, max_tokens=300, prefill_tokens=100)
        for engine in engines
    ]
    return Replicas(schedulers, max_queue)


@asynccontextmanager
async def serving(replicas: Replicas[TableSlot]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(scheduler.serve()) for scheduler in replicas.schedulers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, LostRunnerError):
                await task


async def until_waiting(replicas: Replicas[TableSlot], count: int) -> None:
    for _ in range(1000):
        if replicas.num_waiting == count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


async def test_sessions_go_where_the_fewest_are_and_stay_there() -> None:
    engines = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(*engines)
    places = [replicas.open() for _ in range(4)]
    assert [len(engine.slots) for engine in engines] == [2, 2]
    replicas.close(places[1])
    replicas.close(places[3])
    late = [replicas.open(), replicas.open()]
    assert {place.scheduler for place in late} == {places[1].scheduler}
    async with serving(replicas):
        for _ in range(3):
            await asyncio.gather(*(replicas.run(p, Job((1, 2), 1)) for p in (places[0], late[0])))
    for engine in engines:
        assert len(engine.batches) == 3
        assert all(len(batch) == 1 for batch in engine.batches)


async def test_replicas_run_side_by_side() -> None:
    """A batch of one does not wait for a batch of the other."""
    slow, fast = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(slow, fast)
    held, free = replicas.open(), replicas.open()
    async with serving(replicas):
        slow.gate.clear()
        waiting = asyncio.ensure_future(replicas.run(held, Job((1,), 1)))
        await asyncio.wait_for(replicas.run(free, Job((2,), 1)), 5)
        assert not waiting.done()
        slow.gate.set()
        await waiting


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    """Counted over all replicas."""
    engines = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(*engines, max_queue=3)
    async with serving(replicas):
        for engine in engines:
            engine.gate.clear()
        jobs = [
            asyncio.ensure_future(replicas.run(replicas.open(), Job((i,), 1))) for i in range(3)
        ]
        await until_waiting(replicas, 3)
        with pytest.raises(BusyError) as refusal:
            replicas.admit()
        assert refusal.value.code is ErrorCode.BUSY
        assert refusal.value.retry_after_s > 0
        replicas.set_max_queue(4)
        replicas.admit()
        for engine in engines:
            engine.gate.set()
        await asyncio.gather(*jobs)
        replicas.set_max_queue(1)
        replicas.admit()


async def test_the_sessions_of_a_replica_that_is_lost_go_on_elsewhere() -> None:
    """Those whose jobs were with it, too; nothing of it counts any more."""
    lost, good = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(lost, good, max_queue=4)
    places = [replicas.open(b"alice") for _ in range(8)]
    on_lost, on_good = places[::2], places[1::2]
    lost.fail, lost.poison = LostRunnerError("gone"), 1
    async with serving(replicas) as tasks:
        lost.gate.clear()
        jobs = [asyncio.ensure_future(replicas.run(p, Job((1, 2), 1))) for p in on_lost]
        await until_waiting(replicas, 4)
        lost.gate.set()
        await asyncio.wait_for(asyncio.gather(*jobs), 5)
        with pytest.raises(LostRunnerError):
            await tasks[0]
        assert {place.scheduler for place in places} == {on_good[0].scheduler}
        assert all(place.slot in good.slots for place in places)
        assert replicas.num_stopped == 1
        assert replicas.healthy
        assert replicas.num_waiting == 0
        replicas.admit()
        await replicas.run(on_lost[0], Job((1, 3), 1))
        late = replicas.open()
        assert late.scheduler is on_good[0].scheduler  # though more sessions are there
        for place in (*places, late):
            replicas.close(place)
        assert [scheduler.num_open for scheduler in replicas.schedulers] == [0, 0]


async def test_a_job_that_ends_replicas_ends_two_at_most() -> None:
    engines = [TableEngine(TABLE) for _ in range(3)]
    for engine in engines:
        engine.fail, engine.poison = LostRunnerError("gone"), 1
    replicas = replicas_of(*engines)
    place = replicas.open()
    async with serving(replicas):
        with pytest.raises(StoppedError):
            await asyncio.wait_for(replicas.run(place, Job((1,), 1)), 5)
        assert [scheduler.stopped for scheduler in replicas.schedulers].count(True) == 2
        await replicas.run(place, Job((2,), 1))


async def test_the_last_replica_that_is_lost_is_told() -> None:
    engine = TableEngine(TABLE)
    engine.fail, engine.poison = LostRunnerError("gone"), 1
    replicas = replicas_of(engine)
    async with serving(replicas):
        for _ in range(2):
            with pytest.raises(StoppedError):
                await asyncio.wait_for(replicas.run(replicas.open(), Job((1,), 1)), 5)
        assert not replicas.healthy


async def test_a_replica_that_is_lost_while_nobody_needs_it_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_server.scheduler.CHECK_S", 0.01)
    engine, other = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(engine, other)
    place = replicas.open()
    async with serving(replicas):
        engine.lost = True
        await asyncio.wait_for(replicas.schedulers[0].over.wait(), 5)
        assert replicas.num_stopped == 1 and replicas.healthy
        await replicas.run(place, Job((1, 2), 1))
        assert len(other.batches) == 1
        other.lost = True
        await asyncio.wait_for(replicas.none_left(), 5)


async def test_a_replica_that_is_lost_under_load_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its jobs succeed: what is lost may be its draft model, which rounds do not need."""
    monkeypatch.setattr("edge_server.scheduler.CHECK_S", 0.01)
    engine, other = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(engine, other, max_rows=1)
    place, over = replicas.open(), replicas.schedulers[0].over

    async def write() -> None:
        while not over.is_set():
            await replicas.run(place, Job((1, 2), 1))

    async with serving(replicas):
        writing = asyncio.gather(*(write() for _ in range(4)))  # so that always some wait
        engine.lost = True
        await asyncio.wait_for(over.wait(), 5)
        await asyncio.wait_for(writing, 5)
        assert place.scheduler is replicas.schedulers[1]


async def test_a_batch_that_failed_puts_no_replica_aside() -> None:
    """It may have been the job's fault, and only a next one tells that all is well."""
    first, second = TableEngine(TABLE), TableEngine(TABLE)
    first.fail, first.poison = RuntimeError("out of luck"), 1
    replicas = replicas_of(first, second)
    place = replicas.open()
    async with serving(replicas):
        with pytest.raises(RuntimeError, match="out of luck"):
            await replicas.run(place, Job((1,), 1))
        replicas.close(place)
        opened = [replicas.open() for _ in range(4)]
        assert [len(engine.slots) for engine in (first, second)] == [3, 2]
        assert {p.scheduler for p in opened} == set(replicas.schedulers)


def test_capacities_are_sums() -> None:
    engines = TableEngine(TABLE, max_cached=64), TableEngine(TABLE, max_cached=64)
    engines[1].num_evictions = 3
    replicas = replicas_of(*engines)
    assert replicas.max_cached == 128
    assert replicas.num_evictions == 3


async def test_what_a_lost_replica_had_cached_is_charged_once() -> None:
    lost, good = TableEngine(TABLE), TableEngine(TABLE)
    replicas = replicas_of(lost, good)
    lost.fail, lost.poison = LostRunnerError("gone"), 9
    place, charged = replicas.open(), list[int]()
    async with serving(replicas):
        await replicas.run(place, Job((1, 2, 3), 1), charged.append)
        await replicas.run(place, Job((1, 2, 3, 9), 1), charged.append)
    assert place.scheduler is replicas.schedulers[1]
    assert len(good.batches) == 1
    assert charged == [3, 1]
