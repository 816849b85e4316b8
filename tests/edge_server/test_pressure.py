"""A cache that is too small, or memory that runs out: nobody hangs, and nobody's logits are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from device_runtime.protocol.edge_states import Job
from edge_server.blocks import BLOCK_LEN, FreeBlocks
from edge_server.cache import PagedCache
from edge_server.engine import CacheFullError, Slot, TorchEngine
from edge_server.scheduler import Scheduler
from tests.runners import another
from tests.table_engine import TableEngine, TableSlot
from tests.table_model import random_table
from tests.tiny_models import NUM_TOKENS

ALICE = b"alice"


def text(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, NUM_TOKENS, length).tolist())


@pytest.fixture
def small(llama: TorchEngine) -> TorchEngine:
    """The shared model with room for 8 blocks."""
    return TorchEngine(another(llama), num_ids=NUM_TOKENS, context_len=256, max_blocks=9)


def alone(engine: TorchEngine, tokens: tuple[int, ...], num_rows: int) -> Tensor:
    slot = engine.open()
    (logits,) = engine.logits([(slot, Job(tokens, num_rows))])
    engine.drop(slot)
    return logits


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def test_blocks_that_a_waiting_slot_adopted_can_be_evicted(small: TorchEngine) -> None:
    """It holds them before its first job runs; nobody else could have them otherwise."""
    system = text(4 * BLOCK_LEN, seed=1)
    first, waiting = small.open(ALICE), small.open(ALICE)
    small.logits([(first, Job(system, 0))])
    assert small.num_new(waiting, Job((*system, 5), 0)) == 1
    small.drop(first)
    big = text(8 * BLOCK_LEN, seed=2)
    (logits,) = small.logits([(small.open(), Job(big, 1))])
    assert logits.shape[0] == 1
    assert small.num_evictions == 1
    job = Job((*system, 5), 1)
    assert small.num_new(waiting, job) == len(job.tokens)
    (logits,) = small.logits([(waiting, job)])
    assert distance(logits, alone(small, tuple(job.tokens), 1)) < 1e-5


def test_blocks_of_nobody_are_an_error_and_not_a_lost_iteration(small: TorchEngine) -> None:
    """StopIteration would never reach whoever awaits it."""
    small._free.take(3)  # as if a bug had lost them
    with pytest.raises(CacheFullError):
        small.logits([(small.open(), Job(text(6 * BLOCK_LEN, seed=3), 1))])


async def test_an_engine_that_stops_an_iteration_fails_its_job_alone() -> None:
    engine = TableEngine(random_table(8, seed=1))
    engine.fail, engine.poison = StopIteration("lost"), 7
    scheduler: Scheduler[TableSlot] = Scheduler(
        engine, max_rows=8, max_tokens=300, prefill_tokens=100
    )
    serving = asyncio.create_task(scheduler.serve())
    bad = asyncio.ensure_future(scheduler.run(scheduler.open(), Job((7,), 1)))
    good = asyncio.ensure_future(scheduler.run(scheduler.open(), Job((1,), 1)))
    await asyncio.wait_for(good, 5)
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(bad, 5)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


async def test_prompts_that_evict_each_other_are_done_in_the_end(small: TorchEngine) -> None:
    """Each had lost its first chunk to the others by its next turn, and began again for ever."""
    scheduler = Scheduler(small, max_rows=8, max_tokens=64, prefill_tokens=32)
    serving = asyncio.create_task(scheduler.serve())
    texts = [text(200, seed) for seed in range(6)]
    jobs = [scheduler.run(scheduler.open(), Job(tokens, 0)) for tokens in texts]
    await asyncio.wait_for(asyncio.gather(*jobs), 10)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


class OutOfMemoryError(RuntimeError):
    pass


@pytest.mark.parametrize("num_good", [0, 1])
def test_after_a_failed_allocation_logits_are_right(
    small: TorchEngine, monkeypatch: pytest.MonkeyPatch, num_good: int
) -> None:
    """The slots have given blocks back by then: their tokens must say so."""
    old = [text(3 * BLOCK_LEN, seed=1), text(2 * BLOCK_LEN, seed=2)]
    slots = [small.open(), small.open()]
    small.logits([(slot, Job(tokens, 0)) for slot, tokens in zip(slots, old, strict=True)])
    new = [old[0][:40], (*old[1][:40], *text(100, seed=4))]  # the first gives a block back
    jobs = [Job(tokens, 2) for tokens in new]
    with monkeypatch.context() as broken:
        left = num_good
        original = small._free.take

        def take(count: int) -> list[int]:
            nonlocal left
            left -= 1
            if left < 0:
                raise OutOfMemoryError
            return original(count)

        broken.setattr(small._free, "take", take)
        with pytest.raises(OutOfMemoryError):
            small.logits(list(zip(slots, jobs, strict=True)))
    for slot, tokens, job in zip(slots, old, jobs, strict=True):
        back = Job(tokens, 2)
        for again in (back, job):  # what was cached before the failure, then what failed
            other = TorchEngine(another(small), num_ids=NUM_TOKENS, context_len=256, max_blocks=9)
            (logits,) = small.logits([(slot, again)])
            assert distance(logits, alone(other, tuple(again.tokens), 2)) < 1e-5
    small.logits([(small.open(), Job(text(256, seed=9), 0))])  # both can be evicted
    assert small.num_evictions == 2


def test_a_pool_that_grew_half_way_grows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PagedCache(num_layers=2)
    free = FreeBlocks(cache, max_blocks=400)
    for layer in range(2):
        cache.begin(torch.arange(2) + BLOCK_LEN, BLOCK_LEN)
        states = torch.full((1, 1, 2, 4), layer + 1.0)
        cache.update(states, states, layer)
    calls = 0
    original = torch.Tensor.new_zeros

    def new_zeros(self: Tensor, *size: Any, **more: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OutOfMemoryError
        return original(self, *size, **more)

    monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)
    with pytest.raises(OutOfMemoryError):
        free.take(300)
    blocks = free.take(70)
    assert len(set(blocks)) == 70
    free.take(len(free))
    for layer in range(2):
        keys, values = cache.gather(layer, torch.tensor([[1]]))
        assert keys[0, 0, :2, 0].tolist() == values[0, 0, :2, 0].tolist() == [layer + 1.0] * 2


def test_random_work_under_pressure_gives_solo_logits(small: TorchEngine) -> None:
    """Prompts, rounds, shared beginnings, drops and recounts in any order."""
    rng = np.random.default_rng(0)
    roots = [text(70, seed=s) for s in range(2)]
    slots: list[Slot] = [small.open(t) for t in (ALICE, ALICE, b"bob", b"")]
    other = TorchEngine(another(small), num_ids=NUM_TOKENS, context_len=256, max_blocks=9)

    def a_job() -> Job:
        root = roots[rng.integers(2)]
        tokens = (
            *root[: rng.integers(1, 70)],
            *text(int(rng.integers(0, 30)), int(rng.integers(9))),
        )
        return Job(tokens, int(rng.integers(0, min(3, len(tokens)) + 1)))

    for _ in range(150):
        chosen: Sequence[int] = rng.permutation(4)[: rng.integers(1, 3)].tolist()
        batch = [(slots[i], a_job()) for i in chosen]
        for slot, job in batch:
            small.num_new(slot, job)
        if rng.random() < 0.2:
            small.drop(slots[rng.integers(4)])
        for (_, job), logits in zip(batch, small.logits(batch), strict=True):
            if job.num_rows:
                assert distance(logits, alone(other, tuple(job.tokens), job.num_rows)) < 1e-5
    for slot in slots:
        small.drop(slot)
    assert small.num_free_blocks == small.max_blocks - 1
