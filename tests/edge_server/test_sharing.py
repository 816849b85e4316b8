"""Beginnings of texts are shared within a tenant, never between tenants, and never written to."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.edge_states import Job
from edge_server.blocks import BLOCK_LEN
from edge_server.engine import TorchEngine
from edge_server.sharing import SharedBlocks
from tests.runners import another
from tests.tiny_models import NUM_TOKENS

ALICE, BOB, NOBODY = b"alice", b"bob", b""


def text(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, NUM_TOKENS, length).tolist())


SYSTEM = text(2 * BLOCK_LEN + 10, seed=1)


@pytest.fixture
def engine(llama: TorchEngine) -> TorchEngine:
    """The shared model with a cache of 16 blocks of its own."""
    return TorchEngine(another(llama), num_ids=NUM_TOKENS, context_len=256, max_blocks=17)


def num_new(engine: TorchEngine, tenant: bytes, tokens: tuple[int, ...], num_rows: int = 0) -> int:
    slot = engine.open(tenant)
    count = engine.num_new(slot, Job(tokens, num_rows))
    engine.drop(slot)
    return count


def read(engine: TorchEngine, tenant: bytes, tokens: tuple[int, ...]) -> object:
    slot = engine.open(tenant)
    job = Job(tokens, 0)
    engine.num_new(slot, job)
    engine.logits([(slot, job)])
    return slot


def test_a_beginning_is_found_by_its_own_tenant_and_nobody_else(engine: TorchEngine) -> None:
    question = (*SYSTEM, 5, 6, 7)
    read(engine, ALICE, (*SYSTEM, 9))
    assert num_new(engine, ALICE, question) == len(question) - 2 * BLOCK_LEN
    assert num_new(engine, BOB, question) == len(question)
    assert num_new(engine, NOBODY, question) == len(question)


def test_clients_without_a_token_share_nothing(engine: TorchEngine) -> None:
    read(engine, NOBODY, SYSTEM)
    assert num_new(engine, NOBODY, SYSTEM) == len(SYSTEM)


def test_only_whole_blocks_of_the_same_tokens_are_shared(engine: TorchEngine) -> None:
    read(engine, ALICE, SYSTEM)
    other = (*SYSTEM[: BLOCK_LEN + 3], 1, 2, *SYSTEM[BLOCK_LEN + 5 :])
    assert num_new(engine, ALICE, other) == len(other) - BLOCK_LEN
    late = (7, *SYSTEM)
    assert num_new(engine, ALICE, late) == len(late)


def test_shared_blocks_take_room_once_and_are_free_with_the_last_holder(
    engine: TorchEngine,
) -> None:
    free = engine.num_free_blocks
    slots = [read(engine, ALICE, (*SYSTEM, i)) for i in range(4)]
    assert free - engine.num_free_blocks == 3 + 3 * 1
    for slot in slots[:3]:
        engine.drop(slot)  # type: ignore[arg-type]
    assert num_new(engine, ALICE, SYSTEM) == 10
    engine.drop(slots[3])  # type: ignore[arg-type]
    assert engine.num_free_blocks == free


def test_chats_that_follow_each_other_read_their_system_prompt_once(
    engine: TorchEngine, llama: TorchEngine
) -> None:
    """Nobody holds it in between. Its own tenant finds it again; another one never does."""
    free = engine.num_free_blocks
    engine.drop(read(engine, ALICE, (*SYSTEM, 9)))  # type: ignore[arg-type]
    assert engine.num_free_blocks == free
    question = (*SYSTEM, 5, 6, 7)
    for tenant, expected in (
        (BOB, len(question)), (NOBODY, len(question)), (ALICE, len(question) - 2 * BLOCK_LEN),
    ):  # fmt: skip
        slot, job = engine.open(tenant), Job(question, 2)
        assert engine.num_new(slot, job) == expected
        (logits,) = engine.logits([(slot, job)])
        alone = llama.open()
        (wanted,) = llama.logits([(alone, job)])
        llama.drop(alone)
        assert float((logits - wanted).abs().max()) < 1e-5
        engine.drop(slot)


def test_what_nobody_holds_makes_room_before_younger_texts_do(engine: TorchEngine) -> None:
    engine.drop(read(engine, ALICE, (*SYSTEM, 9)))  # type: ignore[arg-type]
    kept = engine.open(BOB)
    engine.logits([(kept, Job(text(8 * BLOCK_LEN, seed=7), 0))])
    engine.logits([(engine.open(), Job(text(8 * BLOCK_LEN, seed=8), 0))])
    assert engine.num_evictions == 0
    assert engine.num_new(kept, Job(text(8 * BLOCK_LEN, seed=7), 1)) == 1
    assert num_new(engine, ALICE, SYSTEM) == len(SYSTEM)


def test_older_texts_make_room_before_what_nobody_holds(engine: TorchEngine) -> None:
    old = engine.open(BOB)
    engine.logits([(old, Job(text(8 * BLOCK_LEN, seed=7), 0))])
    engine.drop(read(engine, ALICE, (*SYSTEM, 9)))  # type: ignore[arg-type]
    engine.logits([(engine.open(), Job(text(8 * BLOCK_LEN, seed=8), 0))])
    assert engine.num_evictions == 1
    assert num_new(engine, ALICE, SYSTEM) == len(SYSTEM) - 2 * BLOCK_LEN


def test_memory_that_is_kept_for_nobody_is_bounded(engine: TorchEngine) -> None:
    for seed in range(20):
        engine.drop(read(engine, ALICE, text(3 * BLOCK_LEN, seed)))  # type: ignore[arg-type]
    assert engine._shared.num_idle <= engine.max_blocks // 2
    assert engine.num_free_blocks == engine.max_blocks - 1
    assert num_new(engine, ALICE, text(3 * BLOCK_LEN, 19)) == 0


def test_texts_that_part_inside_a_shared_block_do_not_disturb_each_other(
    engine: TorchEngine, llama: TorchEngine
) -> None:
    """One goes back into what both hold and writes there: the other's logits stay the same."""
    first, second = (engine.open(ALICE) for _ in range(2))
    for slot in (first, second):
        engine.num_new(slot, Job(SYSTEM, 0))
        engine.logits([(slot, Job(SYSTEM, 0))])
    parted = (*SYSTEM[: BLOCK_LEN + 5], *text(40, seed=3))
    jobs = [(first, Job((*SYSTEM, 3, 4), 3)), (second, Job(parted, 3))]
    assert engine.num_new(second, jobs[1][1]) == len(parted) - BLOCK_LEN
    for _, logits, (_, job) in zip((1, 2), engine.logits(jobs), jobs, strict=True):
        slot = llama.open()
        (alone,) = llama.logits([(slot, job)])
        llama.drop(slot)
        assert float((logits - alone).abs().max()) < 1e-5
    assert num_new(engine, ALICE, parted) == len(parted) - BLOCK_LEN  # rounds are not offered


def test_a_holder_that_rewrites_its_own_block_withdraws_it(engine: TorchEngine) -> None:
    slot = engine.open(ALICE)
    engine.logits([(slot, Job(SYSTEM, 0))])
    engine.logits([(slot, Job((*SYSTEM[:40], 1, 2, 3), 2))])
    assert num_new(engine, ALICE, SYSTEM) == len(SYSTEM) - BLOCK_LEN


def test_eviction_of_one_holder_leaves_the_other_s_blocks(
    engine: TorchEngine, llama: TorchEngine
) -> None:
    old, young = (read(engine, ALICE, (*SYSTEM, i)) for i in range(2))
    engine.logits([(engine.open(), Job(text(12 * BLOCK_LEN, seed=5)[:250], 0))])
    engine.logits([(engine.open(), Job(text(250, seed=6)[: 5 * BLOCK_LEN], 0))])
    assert engine.num_evictions >= 1
    job = Job((*SYSTEM, 1, 8), 1)
    (logits,) = engine.logits([(young, job)])  # type: ignore[list-item]
    slot = llama.open()
    (alone,) = llama.logits([(slot, job)])
    llama.drop(slot)
    assert float((logits - alone).abs().max()) < 1e-5
    assert old is not young


def test_a_beginning_read_twice_at_the_same_time_is_kept_once() -> None:
    shared, tokens = SharedBlocks(max_idle=0), tuple(range(2 * BLOCK_LEN))
    shared.offer(ALICE, tokens, [1, 2])
    shared.offer(ALICE, tokens, [3, 4])
    assert shared.adopt(ALICE, tokens) == [1, 2]
    assert sorted(shared.release([3, 4], 1)) == [3, 4]
    assert shared.release([1, 2], 2) == []
    assert sorted(shared.release([1, 2], 3)) == [1, 2]
    assert shared.adopt(ALICE, tokens) == []


def test_what_follows_a_block_that_is_rewritten_is_not_found_any_more() -> None:
    """Its key names the block, which is going to stand for another text."""
    shared, tokens = SharedBlocks(max_idle=9), tuple(range(3 * BLOCK_LEN))
    shared.offer(ALICE, tokens, [1, 2, 3])
    shared.release([1, 2, 3], 1)
    assert shared.adopt(ALICE, tokens[: BLOCK_LEN + 5]) == [1]
    assert sorted(shared.withdraw(1)) == [2, 3]
    assert shared.num_idle == 0
    other = (*range(500, 500 + BLOCK_LEN), *tokens[BLOCK_LEN:])
    shared.offer(ALICE, other[:BLOCK_LEN], [1])
    assert shared.adopt(ALICE, other) == [1]


def test_ends_of_texts_go_before_their_beginnings() -> None:
    shared, tokens = SharedBlocks(max_idle=9), tuple(range(3 * BLOCK_LEN))
    shared.offer(ALICE, tokens, [1, 2, 3])
    assert shared.idle_since is None
    shared.release([1, 2, 3], 5)
    assert shared.num_idle == 3
    assert [shared.forget_oldest() for _ in range(3)] == [[3], [2], [1]]


def test_a_very_long_text_can_be_forgotten() -> None:
    shared, tokens = SharedBlocks(max_idle=5000), tuple(range(2000 * BLOCK_LEN))
    shared.offer(ALICE, tokens, range(2000))
    shared.release(range(2000), 1)
    assert shared.adopt(ALICE, tokens[:BLOCK_LEN]) == [0]
    assert len(shared.withdraw(0)) == 1999
