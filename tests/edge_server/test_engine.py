"""Batched logits are solo logits, whatever else runs, is rolled back or is evicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.edge_passes import model_of
from device_runtime.protocol.edge_states import Job, Rows
from device_runtime.protocol.law import Floats, Law
from device_runtime.protocol.sampling import Sampling, to_law
from edge_server import local_runner as runner_module
from edge_server.batch import pack as pack_pieces
from edge_server.blocks import BLOCK_LEN, num_blocks_for
from edge_server.engine import CacheFullError, TorchEngine, common_prefix_len
from tests.runners import another
from tests.tiny_models import NUM_TOKENS

MakeEngine = Callable[..., TorchEngine]
Generated = Callable[..., list[int]]

# Largest difference of a logit between a batch and alone. The logits' own spread is about 3.
# float64 is not exact because the norms of these models round to float32 in between.
TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "bfloat16": 0.5}


def text(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, NUM_TOKENS, length).tolist())


def alone(engine: TorchEngine, tokens: tuple[int, ...], num_rows: int) -> Tensor:
    """Logits of the last positions, in one pass of their own."""
    slot = engine.open()
    (logits,) = engine.logits([(slot, Job(tokens, num_rows))])
    engine.drop(slot)
    return logits


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_ragged_batch_gives_the_logits_of_each_text_alone(
    make_engine: MakeEngine, model_type: str, dtype: str
) -> None:
    engine = make_engine(model_type, dtype)
    texts = [text(n, n) for n in (9, 70, 33, 1, 100)]
    olds = [6, 64, 0, 0, 90]
    slots = [engine.open() for _ in texts]
    warm = [(s, Job(t[:old], 0)) for s, t, old in zip(slots, texts, olds, strict=True) if old]
    engine.logits(warm)
    jobs = [Job(t, len(t) - old) for t, old in zip(texts, olds, strict=True)]
    batched = engine.logits(list(zip(slots, jobs, strict=True)))
    for job, logits in zip(jobs, batched, strict=True):
        assert distance(logits, alone(engine, tuple(job.tokens), job.num_rows)) < TOLERANCE[dtype]


def likeliest(rows: Rows) -> int:
    return int(rows.law(0, Sampling(temperature=0.0), ()).support()[0])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral", "gemma2"])
def test_greedy_text_beside_others_equals_generate(
    make_engine: MakeEngine, generated: Generated, model_type: str
) -> None:
    """mistral and gemma2 have windows of 32, which the text outgrows."""
    engine = make_engine(model_type)
    prompts = [list(text(40, 1)), list(text(3, 2))]
    texts = [tuple(prompt) for prompt in prompts]
    slots = [engine.open() for _ in texts]
    for _ in range(24):
        jobs = [
            (slot, Job(tokens, 1, likeliest)) for slot, tokens in zip(slots, texts, strict=True)
        ]
        results = engine.run(jobs)
        texts = [(*tokens, result()) for tokens, result in zip(texts, results, strict=True)]
    for prompt, tokens in zip(prompts, texts, strict=True):
        assert list(tokens[len(prompt) :]) == generated(prompt, 24, model_type)


def test_a_prompt_in_chunks_gives_the_same_logits(llama: TorchEngine) -> None:
    tokens, slot = text(150, 3), llama.open()
    for end in (1, 32, 33, 100):
        llama.logits([(slot, Job(tokens[:end], 0))])
    assert llama.num_new(slot, Job(tokens, 5)) == 50
    (logits,) = llama.logits([(slot, Job(tokens, 5))])
    assert distance(logits, alone(llama, tokens, 5)) < TOLERANCE["float64"]


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_blocks_read_where_they_are_give_the_logits_of_copies(
    make_engine: MakeEngine, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, and in a batch of equally long texts that were read one after the other."""
    engine = make_engine(model_type)
    texts = [text(2 * BLOCK_LEN, seed) for seed in (1, 2, 3)]
    results, viewed = [], 0
    original = pack_pieces

    def pack(copies: bool, *args: Any) -> Any:
        nonlocal viewed
        packed = original(*args)
        viewed += sum(group.stretch is not None for group in packed.groups)
        if copies:
            groups = tuple(replace(group, stretch=None) for group in packed.groups)
            packed = replace(packed, groups=groups)
        return packed

    for copies in (False, True):
        monkeypatch.undo()  # a new runner packs once by itself
        fresh = TorchEngine(another(engine), num_ids=NUM_TOKENS, context_len=256, max_blocks=20)
        monkeypatch.setattr(runner_module, "pack", partial(pack, copies))
        slots = [fresh.open() for _ in texts]
        for slot, tokens in zip(slots, texts, strict=True):
            fresh.logits([(slot, Job(tokens, 0))])
        jobs = [Job((*tokens[:-2], 5, 6), 3) for tokens in texts]
        results.append(fresh.logits(list(zip(slots, jobs, strict=True))))
    assert viewed == 2 * (3 + 1)
    for ours, theirs in zip(*results, strict=True):
        assert distance(ours, theirs) < TOLERANCE["float64"]


def test_rejected_tokens_are_rolled_back(llama: TorchEngine) -> None:
    kept, slot = text(40, 4), llama.open()
    llama.logits([(slot, Job((*kept, 7, 8, 9, 10), 5))])
    job = Job((*kept, 7, 300, 301), 2)
    assert llama.num_new(slot, job) == 2
    (logits,) = llama.logits([(slot, job)])
    assert distance(logits, alone(llama, (*kept, 7, 300, 301), 2)) < TOLERANCE["float64"]


def test_rows_of_cached_tokens_are_computed_again_and_nothing_else(llama: TorchEngine) -> None:
    tokens, slot = text(50, 5), llama.open()
    (first,) = llama.logits([(slot, Job(tokens, 1))])
    assert llama.num_new(slot, Job(tokens, 1)) == 1
    assert llama.num_new(slot, Job(tokens, 0)) == 0
    assert llama.num_new(slot, Job(tokens[:20], 0)) == 0
    (again,) = llama.logits([(slot, Job(tokens, 1))])
    assert distance(first, again) < TOLERANCE["float64"]


def test_a_job_with_nothing_new_runs_no_model(llama: TorchEngine, monkeypatch: Any) -> None:
    tokens, slot = text(20, 6), llama.open()
    llama.logits([(slot, Job(tokens, 0))])
    monkeypatch.setattr(model_of(llama), "forward", None)
    (rows,) = llama.logits([(slot, Job(tokens[:10], 0))])
    assert len(rows) == 0


def test_a_dropped_slot_gives_its_memory_back_and_runs_again(llama: TorchEngine) -> None:
    tokens, slot, free = text(90, 7), llama.open(), llama.num_free_blocks
    (first,) = llama.logits([(slot, Job(tokens, 2))])
    assert llama.num_free_blocks == free - num_blocks_for(90)
    llama.drop(slot)
    assert llama.num_free_blocks == free
    assert llama.num_new(slot, Job(tokens, 2)) == 90
    (again,) = llama.logits([(slot, Job(tokens, 2))])
    assert distance(first, again) < TOLERANCE["float64"]
    llama.drop(slot)


def test_a_shorter_text_gives_blocks_back(llama: TorchEngine) -> None:
    slot, free = llama.open(), llama.num_free_blocks
    llama.logits([(slot, Job(text(200, 8), 0))])
    llama.logits([(slot, Job(text(5, 9), 1))])
    assert llama.num_free_blocks == free - 1
    llama.drop(slot)


@pytest.fixture
def small(llama: TorchEngine) -> TorchEngine:
    """The same model with room for 8 blocks."""
    return TorchEngine(another(llama), num_ids=NUM_TOKENS, context_len=256, max_blocks=9)


def test_the_slot_used_longest_ago_is_evicted_and_comes_back(small: TorchEngine) -> None:
    texts = [text(3 * BLOCK_LEN, seed) for seed in range(3)]
    slots = [small.open() for _ in texts]
    for slot, tokens in zip(slots, texts, strict=True):
        small.logits([(slot, Job(tokens, 0))])
    new = [small.num_new(s, Job(t, 1)) for s, t in zip(slots, texts, strict=True)]
    assert new == [3 * BLOCK_LEN, 1, 1]
    assert small.num_evictions == 1
    (logits,) = small.logits([(slots[0], Job(texts[0], 1))])
    assert distance(logits, alone(small, texts[0], 1)) < TOLERANCE["float64"]


def test_a_cache_smaller_than_the_context_shortens_the_context(small: TorchEngine) -> None:
    assert (small.max_cached, small.context_len) == (8 * BLOCK_LEN, 256)
    tiny = TorchEngine(another(small), num_ids=NUM_TOKENS, context_len=256, max_blocks=3)
    assert tiny.context_len == 2 * BLOCK_LEN


def test_a_batch_that_cannot_fit_is_refused_and_no_slot_is_harmed(small: TorchEngine) -> None:
    slots = [small.open() for _ in range(3)]
    small.logits([(slots[0], Job(text(50, 1), 0))])
    with pytest.raises(CacheFullError, match="9 cache blocks"):
        small.logits([(slot, Job(text(3 * BLOCK_LEN, 2), 1)) for slot in slots])
    assert small.num_new(slots[0], Job(text(50, 1), 0)) == 0
    assert small.num_evictions == 0


def test_a_failed_pass_leaves_slots_that_can_go_on(small: TorchEngine, monkeypatch: Any) -> None:
    tokens, slot = text(40, 3), small.open()
    small.logits([(slot, Job(tokens[:30], 0))])
    with monkeypatch.context() as broken:
        broken.setattr(model_of(small).model.layers[1], "forward", None)  # the first layer has run
        with pytest.raises(TypeError):
            small.logits([(slot, Job((*tokens[:20], 99, 98), 1))])
    assert small.num_new(slot, Job(tokens, 1)) == 20
    (logits,) = small.logits([(slot, Job(tokens, 1))])
    assert distance(logits, alone(small, tokens, 1)) < TOLERANCE["float64"]


def test_a_text_that_overflows_does_not_reach_others(make_engine: MakeEngine) -> None:
    """Neither those beside it in the batch nor the next owners of its blocks."""
    engine = make_engine()
    good, bad = text(40, 1), (5, 6, 7, 8)
    good = tuple(t for t in good if t not in bad)
    wanted = alone(engine, good, 1)
    with torch.no_grad():
        model_of(engine).model.embed_tokens.weight[6] = torch.nan
    slots = [engine.open(), engine.open()]
    beside, broken = engine.logits([(slots[0], Job(good, 1)), (slots[1], Job(bad, 1))])
    assert broken.isnan().any()
    assert distance(beside, wanted) < TOLERANCE["float64"]
    small = TorchEngine(another(engine), num_ids=NUM_TOKENS, context_len=64, max_blocks=3)
    assert alone(small, bad * 16, 1).isnan().any()
    assert distance(alone(small, good, 1), wanted) < TOLERANCE["float64"]


def test_laws_are_those_of_the_logits_without_the_padding_columns(llama: TorchEngine) -> None:
    tokens, slot = text(30, 10), llama.open()
    samplings = (Sampling(), Sampling(0.7, top_p=0.9), Sampling(0.0))

    def read(rows: Rows) -> list[Law]:
        return [rows.law(row, sampling, (1, 2, 2)) for row, sampling in enumerate(samplings)]

    job = Job(tokens, 3, read)
    (logits,) = llama.logits([(slot, job)])
    (result,) = llama.run([(slot, job)])
    assert logits.shape == (3, NUM_TOKENS + 16)
    for row, (sampling, law) in enumerate(zip(samplings, result(), strict=True)):
        wanted = to_law(logits[row].numpy(), sampling, (1, 2, 2), NUM_TOKENS)
        ids = np.arange(NUM_TOKENS + 16)
        np.testing.assert_allclose(law.prob(ids), wanted.prob(ids), rtol=1e-4, atol=1e-9)
        assert law.support().max() < NUM_TOKENS


def test_half_precision_logits_become_float32(make_engine: MakeEngine) -> None:
    engine = make_engine(dtype="bfloat16")
    (logits,) = engine.logits([(engine.open(), Job((1, 2, 3), 2))])
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [((), (), 0), ((1,), (), 0), ((1, 2, 3), (1, 2, 3), 3), ((1, 2), (1, 2, 3), 2),
     ((1, 9, 3), (1, 2, 3), 1), ((9, 2), (1, 2), 0), (tuple(range(99)), (*range(98), 0), 98)],
)  # fmt: skip
def test_the_common_prefix_ends_at_the_first_difference(
    a: tuple[int, ...], b: tuple[int, ...], length: int
) -> None:
    assert common_prefix_len(a, b) == common_prefix_len(b, a) == length


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu_a_ragged_batch_gives_the_logits_of_each_text_alone(
    make_engine: MakeEngine, dtype: str
) -> None:
    engine = make_engine("llama", dtype, device="cuda")
    texts = [text(n, n) for n in (9, 70, 33, 1, 100)]
    slots = [engine.open() for _ in texts]
    jobs = [Job(t, min(5, len(t))) for t in texts]
    for job, logits in zip(jobs, engine.logits(list(zip(slots, jobs, strict=True))), strict=True):
        assert distance(logits, alone(engine, tuple(job.tokens), job.num_rows)) < TOLERANCE[dtype]
    (logits,) = engine.logits([(slots[1], jobs[1])])
    sampling = Sampling(0.8, top_p=0.9)
    wanted = to_law(logits[2].cpu().numpy(), sampling, (), NUM_TOKENS)

    def read(rows: Rows) -> Floats:
        return rows.law(2, sampling, ()).prob(wanted.ids)

    (result,) = engine.run([(slots[1], replace(jobs[1], read=read))])
    np.testing.assert_allclose(result(), wanted.probs, rtol=0.2, atol=1e-3)
